package gateway

import (
	"strings"
	"testing"
)

func TestStoreIsDescribedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	c := Config{Store: Store{Dir: "data", NatsURL: "nats://sluice:hunter2@10.0.0.1:4222, tls://b.example"}}
	if d := c.Describe(); !strings.Contains(d, "store      at NATS, 10.0.0.1:4222 and b.example\n") || strings.Contains(d, "hunter2") {
		t.Errorf("%s", d)
	}
}
