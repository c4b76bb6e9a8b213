package callbacks

import "time"

const (
	// firstWait is long enough for a receiver to come back from a restart, and longestWait short enough that one that was
	// down over night gets its callbacks soon after it is back.
	firstWait   = 5 * time.Second
	longestWait = 2 * time.Hour
	// doublings is how often firstWait doubles before it reaches longestWait; more would only risk an overflow.
	doublings = 11
	// spread is the part of a wait that jitter takes away, so that callbacks that failed together are not repeated together.
	spread = 0.25
	// giveUpAfter is for how long a callback is tried: about two dozen attempts. A receiver that has been away for a day
	// is somebody's to look at, and a callback that it missed can be redelivered.
	giveUpAfter = 24 * time.Hour
)

// next says when to try again after attempts that all failed, counted from 1, the last of which ended at now. asked is
// what the receiver's Retry-After asked for, jitter a random number in [0, 1). ok is false if that would be later than
// giveUpAfter from begun, when the first was due.
func next(attempts int, begun, now time.Time, asked time.Duration, jitter float64) (at time.Time, ok bool) {
	wait := min(firstWait<<min(max(attempts-1, 0), doublings), longestWait)
	wait -= time.Duration(float64(wait) * spread * jitter)
	at = now.Add(max(wait, min(asked, longestWait)))
	return at, at.Before(begun.Add(giveUpAfter))
}
