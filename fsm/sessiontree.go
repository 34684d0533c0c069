package fsm

import "encoding/binary"

// sessionRow is one session. It holds no pointer, so that the garbage
// collector has nothing to follow in a page of them.
type sessionRow struct {
	key   [16]byte
	slot  uint32 // which incarnation of which instance; see sessionSlot
	epoch uint32 // how often the session has moved
	seen  uint32 // log time of the last use, in Unix seconds
}

// sessionTree is an ordered, persistent set of sessions: a radix tree over the
// 32 half bytes of the key, whose leaves are pages of rows in order. A page
// covers 1, 2, 4, 8 or all 16 of its branch's digits and halves when it is
// full, so that pages stay more than half full on average.
//
// A node is changed in place by the edit that made it and copied by every
// other one: an edit's token is a number that no node of any published tree
// has. A tree is therefore a value that never changes once its edit is over.
//
// The tree is at most 31 branches deep, whatever the keys: more than 16 of
// them can not agree in 31 digits, and a page holds 20. The shape depends on
// the history; the order and the content do not, and nothing else is told.
type sessionTree struct {
	root  *sessionBranch
	count int
}

const (
	pageRows  = 20 // 576 bytes a page, a size class of the allocator
	fewRows   = pageRows / 2
	fullSpan  = 4 // a page of span s covers 1<<s digits
	keyDigits = 32
)

type sessionPage struct {
	token uint64
	n     uint8
	span  uint8
	rows  [pageRows]sessionRow
}

// sessionBranch has a page, a branch, or nothing at each digit. A page stands
// at every digit that it covers. Most branches have pages only, and are half
// as large without an array of branches.
type sessionBranch struct {
	token uint64
	pages [16]*sessionPage
	deep  *[16]*sessionBranch
}

// below returns the branch at a digit, or nil.
func (b *sessionBranch) below(d int) *sessionBranch {
	if b.deep == nil {
		return nil
	}
	return b.deep[d]
}

// setBelow puts a branch at a digit.
func (b *sessionBranch) setBelow(d int, c *sessionBranch) {
	if b.deep == nil {
		b.deep = new([16]*sessionBranch)
	}
	b.deep[d], b.pages[d] = c, nil
}

func keyHalves(key *[16]byte) (hi, lo uint64) {
	return binary.BigEndian.Uint64(key[:8]), binary.BigEndian.Uint64(key[8:])
}

func keyDigit(key *[16]byte, depth int) int {
	return int(key[depth/2]>>(4*(1-depth&1))) & 15
}

// find returns the place of the first row whose key is not below key.
func (p *sessionPage) find(key *[16]byte) (at int, found bool) {
	hi, lo := keyHalves(key)
	for k := range p.rows[:p.n] {
		h, l := keyHalves(&p.rows[k].key)
		if h > hi || h == hi && l >= lo {
			return k, h == hi && l == lo
		}
	}
	return int(p.n), false
}

// base is the first of the digits that a page at digit d covers.
func (p *sessionPage) base(d int) int { return d &^ (1<<p.span - 1) }

// get returns the row of a key, or nil. It must not be modified.
func (t *sessionTree) get(key *[16]byte) *sessionRow {
	b := t.root
	for depth := 0; b != nil; depth++ {
		d := keyDigit(key, depth)
		if p := b.pages[d]; p != nil {
			if k, found := p.find(key); found {
				return &p.rows[k]
			}
			return nil
		}
		b = b.below(d)
	}
	return nil
}

// find returns the row of each key, or nil, and how many there are. It goes
// down the tree with all keys at once, level by level: in a large tree each
// step of each key waits for memory, and here the waits overlap. What comes
// next for these keys finds the nodes in the cache.
func (t *sessionTree) find(keys [][16]byte) (rows []*sessionRow, n int) {
	rows = make([]*sessionRow, len(keys))
	if t.root == nil {
		return rows, 0
	}
	branches, pages := make([]*sessionBranch, len(keys)), make([]*sessionPage, len(keys))
	for k := range branches {
		branches[k] = t.root
	}
	for depth, deeper := 0, true; deeper; depth++ {
		deeper = false
		for k, b := range branches {
			if b == nil {
				continue
			}
			d := keyDigit(&keys[k], depth)
			pages[k], branches[k] = b.pages[d], b.below(d)
			deeper = deeper || branches[k] != nil
		}
	}
	for k, p := range pages {
		if p == nil {
			continue
		}
		if at, found := p.find(&keys[k]); found {
			rows[k] = &p.rows[at]
			n++
		}
	}
	return rows, n
}

// put stores a row and returns the one it replaces.
func (t *sessionTree) put(token uint64, r *sessionRow) (old sessionRow, had bool) {
	if t.root == nil {
		t.root = &sessionBranch{token: token}
	}
	t.root = t.root.own(token)
	b := t.root
	for depth := 0; ; {
		d := keyDigit(&r.key, depth)
		if c := b.below(d); c != nil {
			c = c.own(token)
			b.deep[d] = c
			b, depth = c, depth+1
			continue
		}
		p := b.pages[d]
		if p == nil {
			b.place(&sessionPage{token: token, span: b.room(d)}, d)
			continue
		}
		k, found := p.find(&r.key)
		if !found && p.n == pageRows {
			b.split(token, p, d, depth)
			continue
		}
		p = b.ownPage(token, p, d)
		if found {
			old, p.rows[k] = p.rows[k], *r
			return old, true
		}
		copy(p.rows[k+1:p.n+1], p.rows[k:p.n])
		p.rows[k] = *r
		p.n++
		t.count++
		return sessionRow{}, false
	}
}

// own returns a branch that the edit may change.
func (b *sessionBranch) own(token uint64) *sessionBranch {
	if b.token == token {
		return b
	}
	c := *b
	c.token = token
	if b.deep != nil {
		deep := *b.deep
		c.deep = &deep
	}
	return &c
}

// ownPage puts a page that the edit may change in the place of p.
func (b *sessionBranch) ownPage(token uint64, p *sessionPage, d int) *sessionPage {
	if p.token == token {
		return p
	}
	c := *p
	c.token = token
	b.place(&c, d)
	return &c
}

// place lets a page stand at every digit that it covers around d.
func (b *sessionBranch) place(p *sessionPage, d int) {
	base := p.base(d)
	for k := base; k < base+1<<p.span; k++ {
		b.pages[k] = p
	}
}

// room is the largest span of a page around d that covers nothing else's
// digits.
func (b *sessionBranch) room(d int) uint8 {
	span := uint8(0)
	for span < fullSpan && b.bare(d&^(2<<span-1), span+1) {
		span++
	}
	return span
}

// bare reports whether nothing stands at the digits from base on.
func (b *sessionBranch) bare(base int, span uint8) bool {
	for d := base; d < base+1<<span; d++ {
		if b.pages[d] != nil || b.below(d) != nil {
			return false
		}
	}
	return true
}

// split halves a full page by the next bit of the key; one that covers a
// single digit goes into a branch of its own first.
func (b *sessionBranch) split(token uint64, p *sessionPage, d, depth int) {
	if p.span == 0 {
		c, q := &sessionBranch{token: token}, *p
		q.token, q.span = token, fullSpan
		c.place(&q, 0)
		b.setBelow(d, c)
		return
	}
	half := p.span - 1
	base := p.base(d)
	cut := 0
	for cut < int(p.n) && keyDigit(&p.rows[cut].key, depth) < base+1<<half {
		cut++
	}
	clear(b.pages[base : base+1<<p.span])
	for _, part := range []struct {
		rows []sessionRow
		at   int
	}{{p.rows[:cut], base}, {p.rows[cut:p.n], base + 1<<half}} {
		if len(part.rows) > 0 {
			q := &sessionPage{token: token, span: half, n: uint8(len(part.rows))}
			copy(q.rows[:], part.rows)
			b.place(q, part.at)
		}
	}
}

// remove takes a row out and returns it.
func (t *sessionTree) remove(token uint64, key *[16]byte) (old sessionRow, had bool) {
	if t.get(key) == nil {
		return old, false
	}
	t.root = t.root.own(token)
	t.count--
	return t.root.remove(token, key, 0), true
}

// remove takes out a row that is there. The branch is the edit's own.
func (b *sessionBranch) remove(token uint64, key *[16]byte, depth int) (old sessionRow) {
	d := keyDigit(key, depth)
	if c := b.below(d); c != nil {
		c = c.own(token)
		old = c.remove(token, key, depth+1)
		b.deep[d], b.pages[d] = c.shrunk(token)
	} else {
		p := b.ownPage(token, b.pages[d], d)
		k, _ := p.find(key)
		old = p.rows[k]
		copy(p.rows[k:], p.rows[k+1:p.n])
		p.n--
		if p.n == 0 {
			clear(b.pages[p.base(d) : p.base(d)+1<<p.span])
		}
	}
	b.merge(token, d)
	return old
}

// shrunk is what stands for a branch in its parent: nothing when it is empty,
// its page when it has only one and that has few rows.
func (b *sessionBranch) shrunk(token uint64) (*sessionBranch, *sessionPage) {
	var one *sessionPage
	for d, p := range b.pages {
		if b.below(d) != nil || p != nil && one != nil && p != one {
			return b, nil
		}
		if p != nil {
			one = p
		}
	}
	if one == nil {
		return nil, nil
	}
	if one.n > fewRows {
		return b, nil
	}
	p := *one
	p.token, p.span = token, 0
	return nil, &p
}

// merge joins the page at d with its neighbours while there are few rows in
// them, so that a set that has shrunk gives its memory back.
func (b *sessionBranch) merge(token uint64, d int) {
	for p := b.pages[d]; p != nil && p.span < fullSpan; p = b.pages[d] {
		base := p.base(d)
		other := base ^ 1<<p.span
		q := b.pages[other]
		switch {
		case b.bare(other, p.span):
			q = &sessionPage{span: p.span}
		case q == nil || q.span != p.span || int(p.n)+int(q.n) > fewRows:
			return
		}
		if other < base {
			p, q = q, p
		}
		m := &sessionPage{token: token, span: p.span + 1, n: p.n + q.n}
		copy(m.rows[:], p.rows[:p.n])
		copy(m.rows[p.n:], q.rows[:q.n])
		b.place(m, d)
	}
}

// scan visits the rows whose key is from or greater, in order, until visit
// returns false.
func (t *sessionTree) scan(from *[16]byte, visit func(*sessionRow) bool) {
	if t.root != nil {
		t.root.scan(from, 0, true, visit)
	}
}

// scan visits a branch; low says that from lies within it.
func (b *sessionBranch) scan(from *[16]byte, depth int, low bool, visit func(*sessionRow) bool) bool {
	first := 0
	if low {
		first = keyDigit(from, depth)
	}
	for d := first; d < 16; {
		if c := b.below(d); c != nil && !c.scan(from, depth+1, low && d == first, visit) {
			return false
		}
		p := b.pages[d]
		if p == nil {
			d++
			continue
		}
		k := 0
		if low && d == first {
			k, _ = p.find(from)
		}
		for ; k < int(p.n); k++ {
			if !visit(&p.rows[k]) {
				return false
			}
		}
		d = p.base(d) + 1<<p.span
	}
	return true
}

// treeEdit is one pass over rows in the order of their keys which changes some
// of them where they are. To find the rows first and to put each of them then
// takes twice as long: a page is out of the processor's cache by that time.
type treeEdit struct {
	token uint64
	from  *[16]byte
	// want says what to do with a row; it must not change it.
	want func(*sessionRow) editStep
	// change gets the rows to change, as they will stand in the tree, and may
	// change all but their key. It reports false to end the pass.
	change func(*sessionRow) bool
	over   bool
}

// editStep is what a pass does with a row.
type editStep uint8

const (
	editPass editStep = iota
	editChange
	editEnd
)

// edit makes a pass over the rows whose key is e.from or greater.
func (t *sessionTree) edit(e *treeEdit) {
	if t.root != nil {
		t.root = t.root.edit(e, 0, true)
	}
}

// edit is the pass over a branch, and returns it or its copy; low says that
// e.from lies within it.
func (b *sessionBranch) edit(e *treeEdit, depth int, low bool) *sessionBranch {
	first := 0
	if low {
		first = keyDigit(e.from, depth)
	}
	for d := first; d < 16 && !e.over; {
		if c := b.below(d); c != nil {
			if n := c.edit(e, depth+1, low && d == first); n != c {
				b = b.own(e.token)
				b.deep[d] = n
			}
		}
		p := b.pages[d]
		if p == nil {
			d++
			continue
		}
		k := 0
		if low && d == first {
			k, _ = p.find(e.from)
		}
		b = b.editPage(e, p, d, k)
		d = p.base(d) + 1<<p.span
	}
	return b
}

// editPage is the pass over the page at a digit, from its row k on.
func (b *sessionBranch) editPage(e *treeEdit, p *sessionPage, d, k int) *sessionBranch {
	for ; k < int(p.n) && !e.over; k++ {
		switch e.want(&p.rows[k]) {
		case editEnd:
			e.over = true
		case editChange:
			if p.token != e.token {
				b = b.own(e.token)
				p = b.ownPage(e.token, p, d)
			}
			e.over = !e.change(&p.rows[k])
		}
	}
	return b
}
