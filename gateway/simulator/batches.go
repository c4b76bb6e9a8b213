package simulator

import (
	"bufio"
	"net/http"
	"strings"
	"sync"
	"time"
)

// shelf holds the batches, in the order in which they were made. The zero value is an empty one; any number of
// goroutines may use it at once.
type shelf struct {
	mu    sync.Mutex
	order []*batch
	byID  map[string]*batch
	size  int
}

// shelfLimit bounds what a demo that runs for weeks keeps, in bytes of batches as they were sent. Over it the oldest
// that have ended are forgotten; where too many are unfinished a new one is refused, as by the API when its queue is full.
const shelfLimit = 1_000_000_000

func (s *shelf) add(b *batch, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; s.size+b.size > shelfLimit && i < len(s.order); {
		if old := s.order[i]; old.status(now) == statusEnded {
			s.drop(i)
			continue
		}
		i++
	}
	if s.size+b.size > shelfLimit {
		return newAPIError(http.StatusTooManyRequests, "rate_limit_error", "Too many batch requests are being processed. Please try again later.")
	}
	if s.byID == nil {
		s.byID = make(map[string]*batch)
	}
	s.byID[b.id] = b
	s.order = append(s.order, b)
	s.size += b.size
	return nil
}

// find returns a copy, which nobody changes any more.
func (s *shelf) find(id string) (batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byID[id]; b != nil {
		return *b, nil
	}
	return batch{}, noBatch(id)
}

// newest returns copies of all batches, the newest first.
func (s *shelf) newest() []batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]batch, 0, len(s.order))
	for i := len(s.order) - 1; i >= 0; i-- {
		all = append(all, *s.order[i])
	}
	return all
}

// cancel stops a batch that has not ended. One that is being canceled stays as it is.
func (s *shelf) cancel(id string, now time.Time) (batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.byID[id]
	switch {
	case b == nil:
		return batch{}, noBatch(id)
	case b.status(now) == statusEnded:
		return batch{}, invalid("Batch %s has ended and can no longer be canceled.", id)
	case b.canceled.IsZero():
		b.canceled = now
	}
	return *b, nil
}

func (s *shelf) remove(id string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.byID[id]
	switch {
	case b == nil:
		return noBatch(id)
	case b.status(now) != statusEnded:
		return invalid("Batch %s is in progress. To delete it, cancel it first.", id)
	}
	for i := range s.order {
		if s.order[i] == b {
			s.drop(i)
			break
		}
	}
	return nil
}

func (s *shelf) drop(i int) {
	b := s.order[i]
	s.order = append(s.order[:i], s.order[i+1:]...)
	delete(s.byID, b.id)
	s.size -= b.size
}

func noBatch(id string) *apiError {
	return newAPIError(http.StatusNotFound, "not_found_error", "Message batch `%s` not found.", id)
}

// batchMethods are those of one batch: rest is what follows /v1/messages/batches/.
func (x *exchange) batchMethods(rest string) map[string]func() error {
	id, verb, _ := strings.Cut(rest, "/")
	bind := func(answer func(id string) error) func() error { return func() error { return answer(id) } }
	switch {
	case id == "":
		return nil
	case rest == id:
		return map[string]func() error{http.MethodGet: bind(x.batch), http.MethodDelete: bind(x.deleteBatch)}
	case verb == "results":
		return map[string]func() error{http.MethodGet: bind(x.batchResults)}
	case verb == "cancel":
		return map[string]func() error{http.MethodPost: bind(x.cancelBatch)}
	}
	return nil
}

// createBatch answers POST /v1/messages/batches.
func (x *exchange) createBatch() error {
	body, err := x.body(batchBodyLimit)
	if err != nil {
		return err
	}
	b, err := x.newBatch(body)
	if err != nil {
		return err
	}
	x.rateLimits(time.Second, false)
	if err := x.simulator.batches.add(b, b.created); err != nil {
		return err
	}
	return x.json(http.StatusOK, b.object(statusInProgress, b.created, x.origin()))
}

// listBatches answers GET /v1/messages/batches.
func (x *exchange) listBatches() error {
	id := func(b batch) string { return b.id }
	batches, more, err := pageOf(x.r.URL.Query(), x.simulator.batches.newest(), id)
	if err != nil {
		return err
	}
	now := time.Now()
	objects := make([]messageBatch, len(batches))
	for i, b := range batches {
		objects[i] = b.object(b.status(now), now, x.origin())
	}
	return x.json(http.StatusOK, newListing(objects, more, func(m messageBatch) string { return m.ID }))
}

// batch answers GET /v1/messages/batches/{id}.
func (x *exchange) batch(id string) error {
	b, err := x.simulator.batches.find(id)
	if err != nil {
		return err
	}
	now := time.Now()
	return x.json(http.StatusOK, b.object(b.status(now), now, x.origin()))
}

// cancelBatch answers POST /v1/messages/batches/{id}/cancel. Its body says nothing, and is read all the same.
func (x *exchange) cancelBatch(id string) error {
	if _, err := x.body(bodyLimit); err != nil {
		return err
	}
	now := time.Now()
	b, err := x.simulator.batches.cancel(id, now)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, b.object(statusCanceling, now, x.origin()))
}

// deleteBatch answers DELETE /v1/messages/batches/{id}.
func (x *exchange) deleteBatch(id string) error {
	if err := x.simulator.batches.remove(id, time.Now()); err != nil {
		return err
	}
	return x.json(http.StatusOK, struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}{id, "message_batch_deleted"})
}

// batchResults answers GET /v1/messages/batches/{id}/results. Each line is made as it is written, so that results of
// any size cost no memory; the lines come in an order of their own, because nobody should count on that of the requests.
func (x *exchange) batchResults(id string) error {
	b, err := x.simulator.batches.find(id)
	if err != nil {
		return err
	}
	now := time.Now()
	if b.status(now) != statusEnded {
		return invalid("Results for batch %s are not available until its processing has ended.", id)
	}
	if b.archived(now) {
		return newAPIError(http.StatusNotFound, "not_found_error", "Results for batch %s are no longer available.", id)
	}
	x.w.Header().Set("Content-Type", "application/x-jsonl")
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method == http.MethodHead {
		return nil
	}
	lines := bufio.NewWriterSize(x.w, 64<<10)
	err = b.results(x.simulator, func(result itemResult) error {
		if err := x.wait(0); err != nil {
			return err
		}
		_, _ = lines.Write(encode(result)) // what goes wrong stays with the writer
		if err := lines.WriteByte('\n'); err != nil {
			return errGone
		}
		return nil
	})
	if err != nil {
		return err
	}
	if lines.Flush() != nil {
		return errGone
	}
	return nil
}

// origin is where this request reached us: results_url is absolute.
func (x *exchange) origin() string {
	if x.r.TLS != nil {
		return "https://" + x.r.Host
	}
	return "http://" + x.r.Host
}
