package client

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Option changes one request.
type Option func(*request)

// Meta is what the headers of an answer say.
type Meta struct {
	// Status is the HTTP status.
	Status int
	// Index is the Raft index that the answer reflects.
	Index uint64
	// ServedBy is the node that answered.
	ServedBy string
	// Stale is the age of the state that answered.
	Stale time.Duration
	// Revision is the row's revision, from the ETag; 0 without one.
	Revision  uint64
	RequestID string
}

// Consistency says how fresh a read must be.
type Consistency string

// The levels of consistency.
const (
	// Stale reads the answering node's own state: the fastest.
	Stale Consistency = "stale"
	// Leader reads up to the leader's applied index, without asking a quorum.
	Leader Consistency = "leader"
	// Strong is linearizable: a quorum confirms the leader first.
	Strong Consistency = "strong"
)

// WithConsistency sets the consistency of a read.
func WithConsistency(c Consistency) Option { return query("consistency", string(c)) }

// WithMaxStale bounds the age of a stale read.
func WithMaxStale(d time.Duration) Option { return query("maxStale", d.String()) }

// WithIndex makes a read block until the state is newer than index, or until
// wait is over.
func WithIndex(index uint64, wait time.Duration) Option {
	return func(r *request) {
		r.query.Set("index", strconv.FormatUint(index, 10))
		r.query.Set("wait", wait.String())
		r.blocking = wait
	}
}

// WithLimit sets the size of a page.
func WithLimit(n int) Option { return query("limit", strconv.Itoa(n)) }

// WithCursor asks for the page that a [List].Next names.
func WithCursor(next string) Option { return query("cursor", next) }

// WithFilter keeps the rows whose field has a value, such as "group", "web".
// An empty value filters nothing.
func WithFilter(field, value string) Option { return query(field, value) }

// WithReason says why a delete is done; it is shown in activities.
func WithReason(reason string) Option { return query("reason", reason) }

// IfRevision makes a write conditional on the row's revision.
func IfRevision(revision uint64) Option {
	return header("If-Match", `"`+strconv.FormatUint(revision, 10)+`"`)
}

// IfAbsent makes a write create only.
func IfAbsent() Option { return header("If-None-Match", "*") }

// WithIdempotencyKey gives a write its key. Without it the client makes one,
// which covers the client's own retries only.
func WithIdempotencyKey(key string) Option { return header(HeaderIdempotencyKey, key) }

// Once sends the request one time to one endpoint, whatever comes back.
func Once() Option { return func(r *request) { r.once = true } }

// Capture stores what the answer's headers say.
func Capture(m *Meta) Option { return func(r *request) { r.meta = m } }

func query(key, value string) Option {
	return func(r *request) {
		if value != "" {
			r.query.Set(key, value)
		}
	}
}

// WithHeader sets a header of the request.
func WithHeader(name, value string) Option { return header(name, value) }

func header(key, value string) Option {
	return func(r *request) {
		if value != "" {
			r.header.Set(key, value)
		}
	}
}

// request is one call before it is sent; it may be sent several times.
type request struct {
	method   string
	path     string
	query    url.Values
	header   http.Header
	body     []byte
	meta     *Meta
	blocking time.Duration
	once     bool
}

func newRequest(method, path string, opts []Option) *request {
	r := &request{method: method, path: path, query: url.Values{}, header: http.Header{}}
	for _, o := range opts {
		o(r)
	}
	return r
}

func metaOf(resp *http.Response) Meta {
	index, _ := strconv.ParseUint(resp.Header.Get(HeaderIndex), 10, 64)
	stale, _ := strconv.ParseInt(resp.Header.Get(HeaderStale), 10, 64)
	m := Meta{
		Status: resp.StatusCode, Index: index, ServedBy: resp.Header.Get(HeaderServedBy),
		Stale: time.Duration(stale) * time.Millisecond, RequestID: resp.Header.Get(HeaderRequestID),
	}
	if tag := resp.Header.Get("ETag"); len(tag) > 2 {
		m.Revision, _ = strconv.ParseUint(tag[1:len(tag)-1], 10, 64)
	}
	return m
}
