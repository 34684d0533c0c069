package fsm

import (
	"context"
	"time"
)

type contextKey int

const (
	actorKey contextKey = iota
	requestKey
)

// WithActor names who asks for the writes proposed under ctx: a role of a
// token, or a control loop such as "autoscaler".
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey, actor)
}

// WithRequestID makes the one write proposed under ctx apply once, however
// often it is sent.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey, id)
}

// ActorFrom returns the actor of ctx, or "".
func ActorFrom(ctx context.Context) string { s, _ := ctx.Value(actorKey).(string); return s }

// RequestIDFrom returns the request id of ctx, or "".
func RequestIDFrom(ctx context.Context) string { s, _ := ctx.Value(requestKey).(string); return s }

// ChangeSet is the changes of one log entry, as a watcher sees them.
type ChangeSet struct {
	Index uint64
	Time  time.Time
	// Changes are in the order in which they were made. It is empty when
	// Reset is set.
	Changes []Change
	// Reset says that the state was replaced as a whole, by a snapshot: the
	// reader must look at all of it again.
	Reset bool
}
