package client

import (
	"context"
	"iter"
	"time"
)

// watchWait is how long one read of a watch blocks: shorter than the idle time
// of most that may stand between.
const watchWait = 50 * time.Second

// Services lists a page of the services: every group with what it offers.
func (c *Client) Services(ctx context.Context, opts ...Option) (*List[ServiceSummary], error) {
	return get[List[ServiceSummary]](ctx, c, path("services"), opts)
}

// Service reads a service's endpoints; [WithPassing] leaves those that clients
// should use. [WithIndex] blocks for a change of this service, after its own
// index or after that of the log.
func (c *Client) Service(ctx context.Context, group string, opts ...Option) (*ServiceView, error) {
	return get[ServiceView](ctx, c, path("services", group), opts)
}

// WithPassing keeps the endpoints that are healthy and not draining.
func WithPassing() Option { return query("passing", "true") }

// WatchService yields a service as it is now, and again at each change, for as
// long as ctx lasts and the consumer goes on:
//
//	for v, err := range c.WatchService(ctx, "web", client.WithPassing()) { … }
//
// Every view has all endpoints. A node that fails is no end: the watch goes on
// at another one, at the same index. It ends with an error that lasts, such as
// that of a service that was removed.
func (c *Client) WatchService(ctx context.Context, group string, opts ...Option) iter.Seq2[*ServiceView, error] {
	return func(yield func(*ServiceView, error) bool) {
		var index uint64
		for ctx.Err() == nil {
			var meta Meta
			each := append(opts[:len(opts):len(opts)], WithIndex(index, watchWait), Capture(&meta))
			v, err := c.Service(ctx, group, each...)
			switch {
			case err != nil:
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			case v.Index == index:
				continue // the wait was over
			case v.Index < index && meta.Index < index:
				continue // a node that is not as far yet, and was asked for long enough
			}
			// An index that went back is that of a state that was restored.
			index = v.Index
			if !yield(v, nil) {
				return
			}
		}
	}
}
