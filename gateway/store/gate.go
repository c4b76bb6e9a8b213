package store

import (
	"context"
	"sync"
)

// gate lets operations pass while the engine works. Those that are on their way when it fails are told at once.
type gate struct {
	mu       sync.Mutex
	up       context.Context // ends when the engine fails; its cause is what operations then fail with
	cancel   context.CancelCauseFunc
	readOnly error // why nothing can be written, although the engine is up
}

func newGate() *gate {
	g := &gate{}
	g.lift(nil)
	return g
}

// lift opens the gate, after drop has closed it: for reads only, as long as there is a reason against writes.
func (g *gate) lift(against error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.up == nil || g.up.Err() != nil {
		g.up, g.cancel = context.WithCancelCause(context.Background())
	}
	g.readOnly = against
}

// drop closes it.
func (g *gate) drop(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cancel(cause)
}

// pass returns a context that ends with the engine, or why it can't be used now.
func (g *gate) pass(write bool) (up context.Context, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.up.Err() != nil:
		return nil, context.Cause(g.up)
	case write && g.readOnly != nil:
		return nil, g.readOnly
	}
	return g.up, nil
}
