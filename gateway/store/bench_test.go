package store

import (
	"bytes"
	"fmt"
	"testing"
)

// BenchmarkWrite is what a write costs its caller: on disk when it returns, as it is, and with the disk left to the
// operating system, for comparison.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name     string
		unsynced bool
	}{{"synced", false}, {"unsynced", true}} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b, Config{Dir: b.TempDir(), unsynced: c.unsynced})
			records := must[*Records](b)(s.Records(b.Context(), "words", 0))
			queue := must[*Queue](b)(s.Queue(b.Context(), "work"))
			objects := must[*Objects](b)(s.Objects(b.Context(), "files", 0))
			value := bytes.Repeat([]byte("x"), 500)
			b.Run("record", func(b *testing.B) {
				for i := range b.N {
					must[uint64](b)(records.Put(b.Context(), Key{fmt.Sprint(i % 100)}, value))
				}
			})
			b.Run("item", func(b *testing.B) {
				for b.Loop() {
					if err := queue.Push(b.Context(), "id", value); err != nil {
						b.Fatal(err)
					}
					item := must[*Item](b)(queue.Next(b.Context()))
					if err := item.Done(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
			for _, size := range []int{20_000, 32_000_000} {
				b.Run(fmt.Sprintf("object/%dkB", size/1000), func(b *testing.B) {
					large := bytes.Repeat([]byte("x"), size)
					b.SetBytes(int64(size))
					for b.Loop() {
						if err := objects.Put(b.Context(), "name", bytes.NewReader(large)); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}

// BenchmarkRead is what a read costs: a record, and each of a list of a thousand.
func BenchmarkRead(b *testing.B) {
	s := open(b, Config{Dir: b.TempDir(), unsynced: true})
	records := must[*Records](b)(s.Records(b.Context(), "words", 0))
	for i := range 1000 {
		must[uint64](b)(records.Put(b.Context(), Key{"owner", fmt.Sprint(i)}, make([]byte, 500)))
	}
	b.Run("record", func(b *testing.B) {
		for b.Loop() {
			must[Record](b)(records.Get(b.Context(), Key{"owner", "500"}))
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, err := range records.List(b.Context(), Key{"owner"}) {
				if n++; err != nil {
					b.Fatal(err)
				}
			}
			if n != 1000 {
				b.Fatal(n)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
	})
}
