package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/pacelinehq/paceline/cluster/wal"
	"github.com/pacelinehq/paceline/fsm"
)

// Storage is where a node keeps what must survive its process. The simulation
// has its own, which can lose an unsynced tail.
type Storage interface {
	// Open opens the stores; it fails while another process has them open.
	Open() (Stores, error)
	// ReadIdentity returns the identity file's content, nil when there is none.
	ReadIdentity() ([]byte, error)
	// WriteIdentity replaces the identity file, durably.
	WriteIdentity([]byte) error
}

// Stores are Raft's three stores. Close is called once, when Raft has stopped.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Close     func() error
}

// The files of a data directory.
const (
	fileBolt     = "raft.db"
	dirWAL       = "wal"
	fileIdentity = "cluster.json"
)

// How many snapshots are kept, and how long to wait for another process to
// give up the log.
const (
	keepSnapshots = 2
	boltTimeout   = time.Second
)

// NewDirStorage returns the storage that a node has by default: one directory,
// with the log in the named store ([LogStoreBolt] or [LogStoreWAL]). An empty
// name means the store that the directory holds, [LogStoreBolt] for a new one.
func NewDirStorage(dir, logStore string, log *slog.Logger) Storage {
	return dirStorage{dir: dir, logStore: logStore, log: log}
}

// dirStorage keeps everything in one directory.
type dirStorage struct {
	dir      string
	logStore string
	log      *slog.Logger
}

// Open implements [Storage].
func (d dirStorage) Open() (s Stores, err error) {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return s, d.failed(err)
	}
	bolt, err := d.openBolt()
	if err != nil {
		return s, err
	}
	s = Stores{Log: bolt, Stable: bolt, Close: bolt.Close}
	if err := d.openLog(bolt, &s); err != nil {
		return s, errors.Join(err, bolt.Close())
	}
	s.Snapshots, err = raft.NewFileSnapshotStoreWithLogger(d.dir, keepSnapshots, &raftLogger{log: d.log})
	if err != nil {
		return s, errors.Join(d.failed(err), s.Close())
	}
	return s, nil
}

// openBolt opens the file with Raft's term and vote, and with the log where
// that is the store. Its lock keeps other processes from the directory.
func (d dirStorage) openBolt() (*raftboltdb.BoltStore, error) {
	options := *bbolt.DefaultOptions
	// The list of free pages is rebuilt at start instead of being written with
	// every append; with a map it stays cheap in a file that was once large.
	options.NoFreelistSync, options.FreelistType = true, bbolt.FreelistMapType
	options.Timeout = boltTimeout
	if err := checkBolt(filepath.Join(d.dir, fileBolt)); err != nil {
		return nil, err
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(d.dir, fileBolt), BoltOptions: &options, MsgpackUseNewTimeFormat: true,
	})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, fsm.Errorf(fsm.Conflict, "data directory", d.dir, "is used by another process").
			WithHint("stop that process, or give this node another --data-dir")
	case err != nil:
		return nil, d.failed(err)
	}
	return bolt, nil
}

// openLog opens the wal store, where that is the one, and refuses a directory
// with the log of the other store: the node would have forgotten it.
func (d dirStorage) openLog(bolt *raftboltdb.BoltStore, s *Stores) error {
	path := filepath.Join(d.dir, dirWAL)
	has, want := "", d.logStore
	last, err := bolt.LastIndex()
	if err != nil {
		return d.failed(err)
	}
	switch _, err := os.Stat(path); {
	case err == nil:
		has = LogStoreWAL
	case !errors.Is(err, fs.ErrNotExist):
		return d.failed(err)
	case last > 0:
		has = LogStoreBolt
	}
	if want == "" {
		want = orDefault(has, LogStoreBolt)
	}
	switch {
	case has != "" && has != want:
		return fsm.Errorf(fsm.Conflict, "data directory", d.dir, "holds a Raft log of the %s store", has).
			WithHint("start with --raft-log-store %s; to change the store, remove the node, empty its directory and let it join again", has)
	case want == LogStoreBolt:
		return nil
	}
	files, err := wal.NewDir(path)
	if err != nil {
		return d.failed(err)
	}
	log, err := wal.Open(files, wal.SegmentSize)
	var damaged *wal.DamagedError
	switch {
	case errors.As(err, &damaged):
		return fsm.Errorf(fsm.Unavailable, "Raft log", path, "can not be used: %v", err).
			WithHint("restore the directory from a backup; or remove this node from the cluster, empty its data directory, and let it join again")
	case err != nil:
		return d.failed(err)
	}
	s.Log, s.Close = log, func() error { return errors.Join(log.Close(), bolt.Close()) }
	return nil
}

func (d dirStorage) failed(err error) error {
	return fsm.Errorf(fsm.Unavailable, "data directory", d.dir, "can not be opened: %v", err).
		WithHint("check that the directory is writable and the disk is not full")
}

// ReadIdentity implements [Storage].
func (d dirStorage) ReadIdentity() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(d.dir, fileIdentity))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// WriteIdentity implements [Storage]. It writes beside the file and renames,
// so that a crash leaves the old or the new one.
func (d dirStorage) WriteIdentity(b []byte) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(d.dir, fileIdentity)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// dirFormat is the newest layout of a data directory that this version reads.
const dirFormat = 1

// identity is the content of the identity file: whose data this is.
type identity struct {
	Format  int    `json:"format"`
	Name    string `json:"name"`
	Cluster string `json:"cluster,omitempty"`
	// Abstains says that the node must not vote before it has caught up.
	Abstains bool `json:"abstains,omitempty"`
	// Left says that the node has left its cluster: its log must not be used
	// again, or it would disturb the elections of those who stayed.
	Left bool `json:"left,omitempty"`
}

// loadIdentity reads and checks the identity of a data directory.
func loadIdentity(s Storage, name string) (identity, error) {
	id := identity{Format: dirFormat, Name: name}
	b, err := s.ReadIdentity()
	if err != nil {
		return id, fsm.Errorf(fsm.Unavailable, "data directory", "", "has an identity file that can not be read: %v", err)
	}
	if b == nil {
		return id, nil
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fsm.Errorf(fsm.Invalid, "data directory", "", "has a damaged identity file: %v", err).
			WithHint("the file is %s; restore it, or use an empty --data-dir", fileIdentity)
	}
	switch {
	case id.Format > dirFormat:
		return id, fsm.Errorf(fsm.Conflict, "data directory", "", "has format %d, this version reads up to %d", id.Format, dirFormat).
			WithHint("start a newer paceline on this node")
	case id.Name != name:
		return id, fsm.Errorf(fsm.Conflict, "data directory", "", "belongs to node %s, not to %s", id.Name, name).
			WithHint("start with --name %s, or with an empty --data-dir", id.Name)
	case id.Left:
		return id, fsm.Errorf(fsm.Conflict, "data directory", "", "belongs to a node that left its cluster").
			WithHint("start with an empty --data-dir to join again")
	}
	return id, nil
}

func (id identity) save(s Storage) error {
	b, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encoding the identity: %w", err)
	}
	return s.WriteIdentity(b)
}
