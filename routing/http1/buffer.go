package http1

import "sync"

// buffer is what a connection borrows while it has something to say.
type buffer struct{ b []byte }

// pools keeps unused buffers of the two sizes that are common: for heads of the
// default size, and for bodies. It is a cache and no more than that.
var pools struct{ head, body sync.Pool }

func poolOf(size int) *sync.Pool {
	switch size {
	case defaultInitialBuffer:
		return &pools.head
	case copyBuffer:
		return &pools.body
	}
	return nil
}

func getBuffer(size int) *buffer {
	if p := poolOf(size); p != nil {
		if b, ok := p.Get().(*buffer); ok {
			return b
		}
	}
	return &buffer{b: make([]byte, size)}
}

func putBuffer(b *buffer) {
	if b == nil {
		return
	}
	if p := poolOf(len(b.b)); p != nil {
		p.Put(b)
	}
}
