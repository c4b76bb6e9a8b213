package store

import (
	"context"
	"sync"
)

// gate lets operations pass while the engine works. Those that are on their way when it fails are told at once.
type gate struct {
	mu     sync.Mutex
	up     context.Context // ends when the engine fails; its cause is what operations then fail with
	cancel context.CancelCauseFunc
}

func newGate() *gate {
	g := &gate{}
	g.lift()
	return g
}

// lift opens the gate, after drop has closed it.
func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up, g.cancel = context.WithCancelCause(context.Background())
}

// drop closes it.
func (g *gate) drop(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cancel(cause)
}

// pass returns a context that ends with the engine, or why it can't be used now.
func (g *gate) pass() (up context.Context, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.up.Err() != nil {
		return nil, context.Cause(g.up)
	}
	return g.up, nil
}
