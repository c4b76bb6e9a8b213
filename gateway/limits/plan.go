package limits

// Plan is a named set of limits. Each caller belongs to one; its name is the
// key under which the configuration holds it. A limit of 0 does not limit.
type Plan struct {
	RequestsPerMinute int // requests that make Claude generate; reads and reconnects are free
	Burst             int // how many of them may come at once; 0: as many as RequestsPerMinute
	ConcurrentStreams int // streams of one owner that are open at the same time
	ViewersPerStream  int // connections that read one stream at the same time
}
