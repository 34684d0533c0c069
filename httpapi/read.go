package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// state returns the state that the request asks for: at its consistency, and
// newer than its index when it blocks.
func (c *call) state() (*fsm.State, error) {
	if c.query == nil {
		if err := c.s.cfg.Cluster.Halted(); err != nil {
			return nil, err
		}
		s := c.s.cfg.Cluster.State()
		c.reflects(s, c.s.cfg.Cluster.Stale())
		return s, nil
	}
	if v := c.query.Get("index"); v != "" {
		index, _ := strconv.ParseUint(v, 10, 63)
		wait, err := c.span("wait", defaultWait, maxWait)
		if err != nil {
			return nil, err
		}
		if err := c.block(index+1, wait); err != nil {
			return nil, err
		}
	}
	return c.consistent()
}

func (c *call) reflects(s *fsm.State, age time.Duration) { c.index, c.stale = s.Index(), age }

// consistent takes a state at the asked consistency.
func (c *call) consistent() (*fsm.State, error) {
	cluster := c.s.cfg.Cluster
	level := client.Consistency(c.query.Get("consistency"))
	maxStale, err := c.span("maxStale", -1, maxWait)
	if err != nil {
		return nil, err
	}
	if err := cluster.Halted(); err != nil {
		return nil, err
	}
	age := cluster.Stale()
	if (level == "" || level == client.Stale) && (maxStale < 0 || age <= maxStale) {
		s := cluster.State()
		c.reflects(s, age)
		return s, nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, readTimeout)
	defer cancel()
	read := cluster.LeaderState
	if level == client.Strong {
		read = cluster.StrongState
	}
	s, err := read(ctx)
	if err != nil {
		return nil, noFreshRead(ctx, err)
	}
	c.reflects(s, 0)
	return s, nil
}

func noFreshRead(ctx context.Context, err error) error {
	if fsm.KindOf(err) != fsm.Internal || ctx.Err() == nil {
		return err
	}
	return fsm.Errorf(fsm.NoLeader, "read", "", "found no leader within %s", readTimeout).
		WithHint("consistency=stale answers from this node's own state")
}

// block waits for an index, at most for wait. That the time is over is no
// error: the reader gets the present state.
func (c *call) block(index uint64, wait time.Duration) error {
	if c.s.cfg.Cluster.State().Index() >= index || wait == 0 {
		return nil
	}
	if c.s.blocked.Add(1) > MaxBlocked {
		c.s.blocked.Add(-1)
		return fsm.Errorf(fsm.Exhausted, "node", c.s.cfg.Node, "has %d blocking reads, the most that are allowed", MaxBlocked)
	}
	defer c.s.blocked.Add(-1)
	c.waited = true
	c.unhurried()
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	defer context.AfterFunc(c.s.open, cancel)()
	if _, err := c.s.cfg.Cluster.WaitIndex(ctx, index); err != nil && ctx.Err() == nil {
		return err
	}
	return c.c.Request.Context().Err()
}

// unhurried lifts the deadlines of the connection, which are made for
// requests that are answered at once.
func (c *call) unhurried() {
	rc := http.NewResponseController(c.c.Writer)
	_ = rc.SetReadDeadline(time.Time{}) // a recorder in a test has none
	_ = rc.SetWriteDeadline(time.Time{})
}

// show answers with one row. With If-None-Match it says 304 while the row
// still is the one that the client has; with index too, it blocks until the
// row itself has changed, however much else has.
func show[T any](c *call, find func(*fsm.State) (*T, error), revision func(*T) uint64) error {
	return showAs(c, find, revision, func(row *T) error { return c.json(http.StatusOK, row) })
}

// showAs is show for a row that is not told as JSON.
func showAs[T any](c *call, find func(*fsm.State) (*T, error), revision func(*T) uint64, tell func(*T) error) error {
	have, known := uint64(0), false
	if tag := c.c.Request.Header.Get("If-None-Match"); tag != "" {
		have, known = parseTag(tag)
	}
	until := time.Time{}
	for {
		s, err := c.state()
		if err != nil {
			return err
		}
		row, err := find(s)
		if err != nil {
			return err
		}
		c.etag(revision(row))
		if !known || revision(row) != have {
			return tell(row)
		}
		if !c.again(s.Index(), &until) {
			return c.empty(http.StatusNotModified)
		}
	}
}

// again prepares another round of a blocking read, if there is time left.
func (c *call) again(index uint64, until *time.Time) bool {
	if c.query.Get("index") == "" || c.s.open.Err() != nil {
		return false
	}
	if until.IsZero() {
		wait, err := c.span("wait", defaultWait, maxWait)
		if err != nil {
			return false
		}
		*until = time.Now().Add(wait)
	}
	left := time.Until(*until)
	if left <= 0 {
		return false
	}
	c.query.Set("index", strconv.FormatUint(index, 10))
	c.query.Set("wait", left.String())
	return true
}

// write proposes a command and notes the index of its effects.
func (c *call) write(cmd fsm.Command) (fsm.Result, error) {
	res, err := c.s.cfg.Cluster.Propose(c.ctx, cmd)
	if err != nil {
		return res, err
	}
	c.index, c.stale = res.Index, 0
	return res, nil
}

// written is the row that a write has left: its value, or, for a request that
// was answered before, the row as it is now.
func written[T any](c *call, cmd fsm.Command, table func(*fsm.State) *fsm.Table[T], key string) (*T, error) {
	res, err := c.write(cmd)
	if err != nil {
		return nil, err
	}
	if row, ok := res.Value.(*T); ok {
		return row, nil
	}
	return table(c.s.cfg.Cluster.State()).Lookup(key)
}

// save answers a PUT: 201 when the row is new.
func save[T any](c *call, cmd fsm.Command, cond condition, table func(*fsm.State) *fsm.Table[T], noun, key string, revision func(*T) uint64) error {
	existed := table(c.s.cfg.Cluster.State()).Has(key)
	if err := cond.check(noun, key, existed); err != nil {
		return err
	}
	row, err := written(c, cmd, table, key)
	if err != nil {
		return cond.refine(err)
	}
	c.etag(revision(row))
	if existed {
		return c.json(http.StatusOK, row)
	}
	return c.json(http.StatusCreated, row)
}
