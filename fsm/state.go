package fsm

import "time"

// State is everything the cluster agrees on, at one index of the Raft log. It
// is immutable: readers take no lock and see one index.
type State struct {
	index    uint64
	term     uint64
	time     time.Time
	revision uint64
	// generation counts the forks that led to this state; a table whose owner
	// has the same number is this state's own.
	generation uint64

	Clusters         Table[Cluster]
	Nodes            Table[Node]
	Templates        Table[Template]
	TemplateVersions Table[Template]
	Groups           Table[Group]
	Instances        Table[Instance]
	GroupInstances   Table[GroupInstance]
	ServiceIndexes   Table[ServiceIndex]
	Sessions         SessionTable
	SlotNumbers      Table[SlotNumbers]
	SessionData      Table[SessionData]
	SessionDataEnds  Table[SessionDataEnd]
	SessionUsages    Table[SessionUsage]
	sessionKeys      Table[sessionKeyRing] // see CookieKeys
	Policies         Table[Policy]
	Windows          Table[Window]
	Decisions        Table[Decision]
	Activities       Table[Activity]
	Requests         Table[Request]
	RequestOrder     Table[RequestAge]
	Origins          Table[Origin]
	Quarantine       Table[Quarantined]
	RemovedNodes     Table[RemovedNode]

	// unknown holds snapshot sections of a newer version, written back as
	// they came.
	unknown []section
}

// NewState returns the empty state, at index 0.
func NewState() *State {
	s := &State{
		Clusters:         newTable(&clusterTable),
		Nodes:            newTable(&nodeTable),
		Templates:        newTable(&templateTable),
		TemplateVersions: newTable(&templateVersionTable),
		Groups:           newTable(&groupTable),
		Instances:        newTable(&instanceTable),
		GroupInstances:   newTable(&groupInstanceTable),
		ServiceIndexes:   newTable(&serviceIndexTable),
		Sessions:         newSessionTable(),
		SlotNumbers:      newTable(&slotNumberTable),
		SessionData:      newTable(&sessionDataTable),
		SessionDataEnds:  newTable(&sessionDataEndTable),
		SessionUsages:    newTable(&sessionUsageTable),
		sessionKeys:      newTable(&sessionKeyTable),
		Policies:         newTable(&policyTable),
		Windows:          newTable(&windowTable),
		Decisions:        newTable(&decisionTable),
		Activities:       newTable(&activityTable),
		Requests:         newTable(&requestTable),
		RequestOrder:     newTable(&requestAgeTable),
		Origins:          newTable(&originTable),
		Quarantine:       newTable(&quarantineTable),
		RemovedNodes:     newTable(&removedNodeTable),
	}
	return s
}

// Index is the Raft log index that this state reflects.
func (s *State) Index() uint64 { return s.index }

// Term is the Raft term of the entry at Index.
func (s *State) Term() uint64 { return s.term }

// Time is the log time: the time stamped by the proposer of the last command,
// which never goes back. It stands still when nothing is written.
func (s *State) Time() time.Time { return s.time }

// Revision is the number of the last change of a row. It grows with every
// row written, several times within one index.
func (s *State) Revision() uint64 { return s.revision }

// Digest is a hash of every row, independent of the order in which the rows
// were written. Nodes at the same index must have the same digest.
func (s *State) Digest() uint64 {
	d := s.revision
	for _, t := range s.tables() {
		d += t.digest()
	}
	return d
}

// VerifyDigest hashes every row again and says whether the rolling digest
// still matches, which it does not when memory was corrupted or a reader
// modified a row.
func (s *State) VerifyDigest() bool {
	d := s.revision
	for _, t := range s.tables() {
		d += t.recomputeSum()
	}
	return d == s.Digest()
}

// ClusterID is the identity that the first leader gave this cluster, or ""
// before that.
func (s *State) ClusterID() string {
	c, ok := s.Clusters.Get(clusterKey)
	if !ok {
		return ""
	}
	return c.ID
}

// anyTable is what the machine and the snapshot need of a table, whatever its
// noun.
type anyTable interface {
	Name() string
	Len() int
	digest() uint64
	recomputeSum() uint64
	undo(key string, old any)
	writeRows(func(raw string) error) error
	readRow(raw []byte) error
}

// tables lists every table in a fixed order. A table that is missing here is
// neither hashed nor saved; a test compares the list with State's fields.
func (s *State) tables() []anyTable {
	return []anyTable{
		&s.Clusters, &s.Nodes, &s.Templates, &s.TemplateVersions, &s.Groups,
		&s.Instances, &s.GroupInstances, &s.ServiceIndexes,
		&s.Sessions, &s.SlotNumbers, &s.SessionData, &s.SessionDataEnds, &s.SessionUsages, &s.sessionKeys,
		&s.Policies, &s.Windows, &s.Decisions, &s.Activities,
		&s.Requests, &s.RequestOrder, &s.Origins, &s.Quarantine, &s.RemovedNodes,
	}
}

// fork returns a state that a transaction may change. It shares every table
// with s until the transaction writes to it.
func (s *State) fork() *State {
	next := *s
	next.generation++
	return &next
}

func (t *Table[T]) digest() uint64 { return t.sum }

// undo puts back what a change replaced.
func (t *Table[T]) undo(key string, before any) {
	if r, had := before.(*row[T]); had {
		t.set(key, r)
		return
	}
	t.remove(key)
}

func (t *Table[T]) writeRows(write func(raw string) error) (err error) {
	t.rows.Scan(func(_ string, r *row[T]) bool {
		raw := r.raw
		if !t.spec.encoded {
			raw = t.spec.marshal(r.value)
		}
		err = write(raw)
		return err == nil
	})
	return err
}

// At returns the state placed at another index and term of the log: that of
// the snapshot which carries it, or of the restore that brings it in.
func (s *State) At(index, term uint64) *State {
	c := s.fork()
	c.index, c.term = index, term
	return c
}

// OfCluster returns the state with another cluster's identity, for the restore
// of a snapshot that was taken elsewhere.
func (s *State) OfCluster(id string) *State {
	c := s.fork()
	if row, ok := c.Clusters.Get(clusterKey); ok && row.ID != id {
		moved := *row
		moved.ID = id
		c.Clusters.own(c.generation)
		c.Clusters.set(clusterKey, clusterTable.encode(clusterKey, &moved))
	}
	return c
}
