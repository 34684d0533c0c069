package proxy

import (
	"context"
	"sync"
)

// connSet knows open connections, so that a shutdown can wait for them and cut
// them.
type connSet[C comparable] struct {
	mu    sync.Mutex
	conns map[C]struct{}
	empty chan struct{} // closed when the last one goes, while somebody waits
}

func (s *connSet[C]) add(c C, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= most {
		return false
	}
	if s.conns == nil {
		s.conns = map[C]struct{}{}
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *connSet[C]) remove(c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

func (s *connSet[C]) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// wait returns when there are no connections, or with how many there are when
// ctx ends.
func (s *connSet[C]) wait(ctx context.Context) int {
	s.mu.Lock()
	if len(s.conns) == 0 {
		s.mu.Unlock()
		return 0
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	select {
	case <-empty:
		return 0
	case <-ctx.Done():
		return s.len()
	}
}

// each calls do for every connection.
func (s *connSet[C]) each(do func(C)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		do(c)
	}
}
