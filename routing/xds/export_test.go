package xds

import "time"

// TakeStreams counts streams that are not there.
func (s *Server) TakeStreams(n int64) { s.streams.Add(n) }

// Bucket is a bucket for tests.
type Bucket struct{ b *bucket }

// NewBucket makes a bucket.
func NewBucket(rate, burst float64) Bucket { return Bucket{newBucket(rate, burst)} }

// Try takes a token if there is one.
func (b Bucket) Try() bool { return b.b.try() }

// Wait takes a token and says how long to wait.
func (b Bucket) Wait() time.Duration { return b.b.wait() }

// Renew brings the resources to the present state.
func (s *Server) Renew() { s.renew() }
