package relay

import (
	"testing"

	"go.uber.org/goleak"
)

// A goroutine that outlives its stream fails the suite.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
