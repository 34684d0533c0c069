package fsm

import "strings"

// Planted is a command that exists in tests only: it does what its field says.
type Planted struct {
	Do string `json:"do"`
}

// Name implements [Command].
func (Planted) Name() string { return "Planted" }

// Apply implements [Command].
func (c Planted) Apply(tx *Tx) (any, error) {
	put(tx, &tx.State.Clusters, &Cluster{ID: "written before the end: " + c.Do})
	do, with := strings.CutPrefix(c.Do, "assign ")
	if with { // sessions are written before the end as well
		_, _ = AssignSessions{Group: "g1", Keys: make([]byte, 16)}.Apply(tx)
		_, _ = DeleteSessions{Group: "g1", Keys: append(make([]byte, 31), 7)}.Apply(tx)
	}
	switch do {
	case "panic":
		panic("planted")
	case "fail":
		return nil, Errorf(Conflict, "planted", "", "fails after a write")
	}
	return "done", nil
}

// PlantCommands adds the test-only commands to the table until undo is called.
func PlantCommands() (undo func()) {
	decoders["Planted"] = as[Planted]
	return func() { delete(decoders, "Planted") }
}

// Corrupt changes a row in place, as a reader must never do.
func Corrupt(s *State, group string) {
	g, _ := s.Groups.Get(group)
	g.Desired++
}

// TableNames lists the tables that are hashed and saved.
func TableNames(s *State) []string {
	var names []string
	for _, t := range s.tables() {
		names = append(names, t.Name())
	}
	return names
}

// SessionTree is the set of sessions of one group, for tests of its shape.
type SessionTree struct {
	tree  sessionTree
	token uint64
}

// Fork returns a tree that shares everything with t; either may be changed.
func (t *SessionTree) Fork(token uint64) *SessionTree { return &SessionTree{t.tree, token} }

// Put stores a session and reports whether it was new.
func (t *SessionTree) Put(key [16]byte, slot uint32) bool {
	_, had := t.tree.put(t.token, &sessionRow{key: key, slot: slot})
	return !had
}

// Remove reports whether there was such a session.
func (t *SessionTree) Remove(key [16]byte) bool {
	_, had := t.tree.remove(t.token, &key)
	return had
}

// Edit goes through the sessions from a key on, at most limit of them, and
// gives those that want picks another slot. It returns how many it has seen.
func (t *SessionTree) Edit(from [16]byte, limit int, want func(key [16]byte) (slot uint32, ok bool)) (seen int) {
	var slot uint32
	t.tree.edit(&treeEdit{
		token: t.token, from: &from,
		want: func(r *sessionRow) editStep {
			if seen == limit {
				return editEnd
			}
			seen++
			var ok bool
			if slot, ok = want(r.key); !ok {
				return editPass
			}
			return editChange
		},
		change: func(r *sessionRow) bool {
			r.slot = slot
			return true
		},
	})
	return seen
}

// Get returns the slot of a session.
func (t *SessionTree) Get(key [16]byte) (slot uint32, ok bool) {
	r := t.tree.get(&key)
	if r == nil {
		return 0, false
	}
	return r.slot, true
}

// Scan visits the sessions from a key on.
func (t *SessionTree) Scan(from [16]byte, visit func(key [16]byte, slot uint32) bool) {
	t.tree.scan(&from, func(r *sessionRow) bool { return visit(r.key, r.slot) })
}

// Len returns the number of sessions.
func (t *SessionTree) Len() int { return t.tree.count }

// Shape returns the depth of a tree and the number of its pages and branches.
func (t *SessionTree) Shape() (depth, pages, branches int) {
	if t.tree.root == nil {
		return 0, 0, 0
	}
	return t.tree.root.shape(1)
}

func (b *sessionBranch) shape(at int) (depth, pages, branches int) {
	depth, branches = at, 1
	var last *sessionPage
	for d, p := range b.pages {
		if c := b.below(d); c != nil {
			d, p, n := c.shape(at + 1)
			depth, pages, branches = max(depth, d), pages+p, branches+n
		}
		if p != nil && p != last {
			pages++
		}
		last = p
	}
	return depth, pages, branches
}

// CheckRoom is the check of the number of a group's sessions.
var CheckRoom = checkRoom

// ReadSessionRows reads rows of the sessions' snapshot section, and reports
// whether they were taken and whether the rolling digest matches them.
func ReadSessionRows(rows ...[]byte) (taken, matches bool) {
	t := newSessionTable()
	for _, row := range rows {
		if t.readRow(row) != nil {
			return false, true
		}
	}
	return true, t.digest() == t.recomputeSum()
}

// SessionRows returns the rows of a state's snapshot section of sessions.
func SessionRows(s *State) (rows [][]byte) {
	_ = s.Sessions.writeRows(func(raw string) error {
		rows = append(rows, []byte(raw))
		return nil
	})
	return rows
}
