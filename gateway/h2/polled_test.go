package h2

import (
	"bytes"
	"testing"
)

func TestRecordsAreCountedInWhateverPiecesTheyCome(t *testing.T) {
	var wire []byte
	lengths := []int{1, 0, 300, 5, 16<<10 + 256, 0, 0, 7}
	for _, n := range lengths {
		wire = append(wire, 23, 3, 3, byte(n>>8), byte(n))
		wire = append(wire, bytes.Repeat([]byte{1}, n)...)
	}
	for size := 1; size < 400; size++ {
		var r recordCount
		whole := 0
		for rest := wire; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			whole += r.add(rest[:min(size, len(rest))])
		}
		if whole != len(lengths) {
			t.Fatalf("in pieces of %d: %d records", size, whole)
		}
	}
	var r recordCount
	if n := r.add(wire[:len(wire)-1]); n != len(lengths)-1 {
		t.Errorf("%d records, the last of which is not whole", n)
	}
	if n := r.add(wire[len(wire)-1:]); n != 1 {
		t.Errorf("the last byte completes %d", n)
	}
}
