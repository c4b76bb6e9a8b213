package relay

import "time"

// Reserve takes memory for a request's body before it is read. Ended streams give way, the oldest first.
func (r *Relay) Reserve(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fitLocked(n) {
		return ErrMemory
	}
	r.takeLocked(n)
	return nil
}

// Release gives back what Reserve took and Start didn't take over.
func (r *Relay) Release(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.releaseLocked(n)
}

func (r *Relay) takeLocked(n int64) {
	r.memory += n
	r.metrics.LogBytes(n)
}

func (r *Relay) releaseLocked(n int64) { r.takeLocked(-n) }

// fitLocked makes room for n bytes by forgetting ended streams that nobody reads, the oldest first, and reports whether
// there is. Where all of them would not be enough it forgets none.
func (r *Relay) fitLocked(n int64) bool {
	over := r.memory + n - r.cfg.Memory
	if over <= 0 {
		return true
	}
	var yield []*Stream
	for e := r.ended.Front(); e != nil && over > 0; e = e.Next() {
		if s := e.Value.(*Stream); !s.reading() {
			yield = append(yield, s)
			over -= s.charged
		}
	}
	if over > 0 && n > 0 {
		return false
	}
	for _, s := range yield {
		r.forgetLocked(s)
		r.evicted[s.ID] = struct{}{}
	}
	return over <= 0
}

// charge moves a stream's share of the memory. A live stream may always grow up to MaxLog; ended ones give way to it.
func (r *Relay) charge(s *Stream, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.dropped {
		return
	}
	s.charged += n
	r.takeLocked(n)
	r.fitLocked(0)
}

// streamEnded counts an end.
func (r *Relay) streamEnded(s *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !s.waiting {
		r.active--
	}
	r.quietLocked()
	r.retainLocked(s)
}

// retainLocked keeps an ended stream for its retention.
func (r *Relay) retainLocked(s *Stream) {
	s.settled = true
	if s.forgotten {
		r.dropLocked(s)
		return
	}
	s.endedPlace = r.ended.PushBack(s)
	s.expiry = time.AfterFunc(r.cfg.Retention, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forgetLocked(s)
		delete(r.evicted, s.ID)
	})
	r.fitLocked(0)
}

func (r *Relay) forget(s *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetLocked(s)
	delete(r.evicted, s.ID)
	if s.expiry != nil {
		s.expiry.Stop()
	}
}

// forgetLocked removes a stream from all indexes. Its memory is given back when its last viewer has gone.
func (r *Relay) forgetLocked(s *Stream) {
	if s.forgotten {
		return
	}
	s.forgotten = true
	delete(r.streams, s.ID)
	if s.key.key != "" {
		delete(r.keys, s.key)
	}
	if owned := r.owners[s.Owner]; owned != nil {
		owned.Remove(s.element)
		if owned.Len() == 0 {
			delete(r.owners, s.Owner)
		}
	}
	if s.endedPlace != nil {
		r.ended.Remove(s.endedPlace)
		s.endedPlace = nil
		r.dropLocked(s)
	}
}

// dropLocked gives back the memory of a stream that is forgotten and ended, unless somebody still reads it.
func (r *Relay) dropLocked(s *Stream) {
	if s.dropped || s.reading() {
		return
	}
	s.dropped = true
	r.releaseLocked(s.charged)
	r.metrics.Logs(-1)
}

func (s *Stream) reading() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.viewers) > 0
}
