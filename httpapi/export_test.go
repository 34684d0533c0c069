package httpapi

// Watchers is how many readers wait for services.
func (s *Server) Watchers() int64 { return s.metrics.openWatches.Load() }

// AddWatchers counts some that are not there.
func (s *Server) AddWatchers(n int64) { s.metrics.openWatches.Add(n) }

// Feeds is of how many services somebody waits for news.
func (s *Server) Feeds() int {
	s.directory.mu.Lock()
	defer s.directory.mu.Unlock()
	return len(s.directory.feeds)
}

// Parked counts the connections that would be woken by news of a service.
func (s *Server) Parked(service string) int {
	s.directory.mu.Lock()
	defer s.directory.mu.Unlock()
	f := s.directory.feeds[service]
	if f == nil {
		return 0
	}
	return len(f.parked)
}
