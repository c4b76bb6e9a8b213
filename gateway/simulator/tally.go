package simulator

import "crypto/sha256"

// tallyLimit bounds what a demo that runs for weeks remembers: 1,024 sums of 32 bytes.
const tallyLimit = 1024

// tally counts texts without keeping them. When it is full it forgets everything and starts again.
type tally map[[sha256.Size]byte]int

func (t *tally) add(text string) int {
	if *t == nil || len(*t) >= tallyLimit {
		*t = make(tally)
	}
	sum := sha256.Sum256([]byte(text))
	(*t)[sum]++
	return (*t)[sum]
}
