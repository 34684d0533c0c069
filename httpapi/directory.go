package httpapi

import (
	"cmp"
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
)

// directory wakes those who wait for a change of one service, and remembers
// the answers that are the same for all of them. A reader waits at the feed of
// its service, so that a change of another one costs it nothing, and it holds
// no copy of anything: ten thousand readers share one encoded answer.
type directory struct {
	encoded prometheus.Counter

	mu      sync.Mutex
	feeds   map[string]*feed // of the services that somebody waits for
	answers map[answerKey]*answer
	bytes   int    // in answers
	listed  uint64 // when it last changed which services there are, and their labels
}

// feed is where the readers of one service wait.
type feed struct {
	service string
	readers int
	news    chan struct{} // closed at the next change
	parked  map[*waiter]struct{}
}

// allServices is the feed of those who wait for which services there are. It
// is not a name that a group can have.
const allServices = ""

// answerKey says which answer it is: the form, of which service, filtered how.
type answerKey struct{ form, service, filter string }

// answer is an encoded answer of one version.
type answer struct {
	version answerVersion
	once    sync.Once
	body    []byte
}

// answerVersion is what an answer was made from: a service at an index, and
// the revision of its group where the answer tells more of that.
type answerVersion struct{ index, revision uint64 }

func (v answerVersion) compare(o answerVersion) int {
	return cmp.Or(cmp.Compare(v.index, o.index), cmp.Compare(v.revision, o.revision))
}

func newDirectory(index uint64, encoded prometheus.Counter) *directory {
	return &directory{encoded: encoded, feeds: map[string]*feed{}, answers: map[answerKey]*answer{}, listed: index}
}

// note wakes the readers of the services that a change set has changed.
func (d *directory) note(set fsm.ChangeSet) {
	if set.Reset {
		d.reset(set.Index)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range set.Changes {
		if c.Table == serviceIndexes {
			d.wake(c.Key)
		}
		if changesList(c) {
			d.listed = max(d.listed, set.Index)
			d.wake(allServices)
		}
	}
}

// The tables that the directory looks at.
const (
	serviceIndexes = "serviceIndexes"
	groupsTable    = "groups"
)

// changesList reports whether a change is one of which services there are, or
// of the labels that are told with them.
func changesList(c fsm.Change) bool {
	switch {
	case c.Table == serviceIndexes:
		return c.Created() || c.Removed()
	case c.Table != groupsTable || c.Created() || c.Removed():
		return false
	}
	old, now := c.Old().(*fsm.Group), c.New().(*fsm.Group)
	return !maps.Equal(old.Labels, now.Labels)
}

// reset wakes everybody: it is not known what has changed.
func (d *directory) reset(index uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listed = max(d.listed, index)
	d.forget()
	for service := range d.feeds {
		d.wake(service)
	}
}

// wake needs mu.
func (d *directory) wake(service string) {
	if f := d.feeds[service]; f != nil {
		close(f.news)
		f.news = make(chan struct{})
		for w := range f.parked {
			w.wake()
		}
	}
}

// wakeAll lets everybody look whether to go on waiting.
func (d *directory) wakeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for service := range d.feeds {
		d.wake(service)
	}
}

// cutAll closes the connections of all that are parked.
func (d *directory) cutAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.feeds {
		for w := range f.parked {
			_ = w.conn.Close()
		}
	}
}

// park has a parked reader of a feed woken, until it leaves.
func (d *directory) park(w *waiter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.feed.parked == nil {
		w.feed.parked = map[*waiter]struct{}{}
	}
	w.feed.parked[w] = struct{}{}
}

func (d *directory) leaves(w *waiter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(w.feed.parked, w)
}

// join makes the caller a reader of a service, until it leaves.
func (d *directory) join(service string) *feed {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.feeds[service]
	if f == nil {
		f = &feed{service: service, news: make(chan struct{})}
		d.feeds[service] = f
	}
	f.readers++
	return f
}

func (d *directory) leave(f *feed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.readers--; f.readers == 0 {
		delete(d.feeds, f.service)
	}
}

// news is closed at the next change. A reader takes it before it looks at the
// state: a change between the two then wakes it.
func (d *directory) news(f *feed) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f.news
}

// listIndex is when it last changed which services there are. A node that
// has not run since then knows only that it was not later than its start;
// its readers may then be woken once for nothing, and never miss anything.
func (d *directory) listIndex() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.listed, 1)
}

// share returns an encoded answer, made once for each version. A reader whose
// state is older than the remembered answer encodes for itself.
func (d *directory) share(k answerKey, v answerVersion, encode func() []byte) []byte {
	d.mu.Lock()
	a := d.answers[k]
	older := a != nil && v.compare(a.version) < 0
	if a == nil || v.compare(a.version) > 0 {
		if a != nil {
			d.bytes -= len(a.body)
		}
		if len(d.answers) >= maxAnswersKept {
			d.forget()
		}
		a = &answer{version: v}
		d.answers[k] = a
	}
	d.mu.Unlock()
	if older {
		d.encoded.Inc()
		return encode()
	}
	a.once.Do(func() {
		d.encoded.Inc()
		body := encode()
		d.mu.Lock()
		defer d.mu.Unlock()
		a.body = body
		if d.answers[k] != a {
			return
		}
		if d.bytes += len(body); d.bytes > maxAnswerBytes {
			d.forget()
		}
	})
	return a.body
}

// forget drops the answers; it needs mu.
func (d *directory) forget() { d.answers, d.bytes = map[answerKey]*answer{}, 0 }
