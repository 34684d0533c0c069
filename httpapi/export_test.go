package httpapi

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
