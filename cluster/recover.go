package cluster

import (
	"errors"
	"io"
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// RecoverOptions say how to go on after the majority of voters is lost for
// ever.
type RecoverOptions struct {
	// Name is the node whose data directory it is.
	Name string
	// Voters are the voters to go on with, by name and peer address; empty
	// means this node alone, at the address it had.
	Voters map[string]string
	// DryRun only reports.
	DryRun bool
	// Storage replaces the directory, for tests.
	Storage Storage
	// Logger takes what is done; nil discards it.
	Logger *slog.Logger
}

// RecoverReport says what a recovery keeps and changes.
type RecoverReport struct {
	DryRun    bool   `json:"dryRun"`
	Name      string `json:"name"`
	ClusterID string `json:"clusterId"`
	// LastIndex and LastTerm are of the last entry kept. Entries that the lost
	// voters had beyond it are gone; entries here that were never committed
	// become so.
	LastIndex     uint64   `json:"lastIndex"`
	LastTerm      uint64   `json:"lastTerm"`
	SnapshotIndex uint64   `json:"snapshotIndex"`
	OldVoters     []string `json:"oldVoters"`
	NewVoters     []string `json:"newVoters"`
	Groups        int      `json:"groups"`
	Instances     int      `json:"instances"`
}

// Recover rewrites the configuration of a stopped node, so that it can go on
// without the voters that are lost. Run it on one node, the one with the
// highest last index; the others join it with empty data directories.
func Recover(dataDir string, o RecoverOptions) (report RecoverReport, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Storage == nil {
		o.Storage = NewDirStorage(dataDir, "", o.Logger)
	}
	id, err := loadIdentity(o.Storage, o.Name)
	if err != nil {
		return report, err
	}
	stores, err := o.Storage.Open()
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	report = RecoverReport{DryRun: o.DryRun, Name: o.Name, ClusterID: id.Cluster}
	has, err := raft.HasExistingState(stores.Log, stores.Stable, stores.Snapshots)
	if err != nil {
		return report, recoverError(dataDir, err)
	}
	if !has {
		return report, fsm.Errorf(fsm.NotFound, "data directory", dataDir, "holds no log").
			WithHint("give the data directory of a node that was a member")
	}
	if err := recoverStores(dataDir, o, stores, &report); err != nil || o.DryRun || !id.Abstains {
		return report, err
	}
	id.Abstains = false // nobody is left to catch up with
	return report, id.save(o.Storage)
}

func recoverStores(dataDir string, o RecoverOptions, stores Stores, report *RecoverReport) error {
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = raft.ServerID(o.Name), &raftLogger{log: o.Logger}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(o.Name))
	defer closeQuietly(trans)
	snaps := snapshotStore{stores.Snapshots}
	// Reading the configuration marks conf as one that starts nothing; the
	// recovery takes a copy from before.
	reading := *conf
	old, err := raft.GetConfiguration(&reading, raftFSM{offlineApplier(o.Logger)}, stores.Log, stores.Stable, snaps, trans)
	if err != nil {
		return recoverError(dataDir, err)
	}
	next, err := nextConfiguration(o, old, report)
	if err != nil {
		return err
	}
	a := offlineApplier(o.Logger)
	if err := replay(a, stores, snaps, report); err != nil {
		return recoverError(dataDir, err)
	}
	if o.DryRun {
		return nil
	}
	if err := raft.RecoverCluster(conf, raftFSM{offlineApplier(o.Logger)}, stores.Log, stores.Stable, snaps, trans, next); err != nil {
		return recoverError(dataDir, err)
	}
	return nil
}

func recoverError(dir string, err error) error {
	return fsm.Errorf(fsm.Unavailable, "data directory", dir, "can not be recovered: %v", err).
		WithHint("try the data directory of another node")
}

func offlineApplier(log *slog.Logger) *applier {
	return &applier{log: log, machine: fsm.NewMachine(), settle: func(*fsm.Outcome, []byte) {}, halted: func(stopReason) {}}
}

func nextConfiguration(o RecoverOptions, old raft.Configuration, report *RecoverReport) (next raft.Configuration, err error) {
	address := ""
	for _, s := range old.Servers {
		if s.Suffrage == raft.Voter {
			report.OldVoters = append(report.OldVoters, string(s.ID))
		}
		if string(s.ID) == o.Name {
			address = string(s.Address)
		}
	}
	voters := o.Voters
	if len(voters) == 0 {
		if address == "" {
			return next, fsm.Errorf(fsm.Conflict, "node", o.Name, "is not a member by its own log").
				WithHint("name the voters and their peer addresses")
		}
		voters = map[string]string{o.Name: address}
	}
	if _, ok := voters[o.Name]; !ok {
		return next, fsm.Errorf(fsm.Invalid, "voters", "", "do not contain the node %s itself", o.Name)
	}
	for _, name := range sortedKeys(voters) {
		next.Servers = append(next.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(name), Address: raft.ServerAddress(voters[name])})
		report.NewVoters = append(report.NewVoters, name)
	}
	return next, nil
}

// replay applies the log to find out what is kept, and that it is intact.
func replay(a *applier, stores Stores, snaps snapshotStore, report *RecoverReport) error {
	list, err := snaps.List()
	if err != nil {
		return err
	}
	from := uint64(1)
	if len(list) > 0 {
		meta, r, err := snaps.Open(list[0].ID)
		if err != nil {
			return err
		}
		if err := restoreFrom(a, r); err != nil {
			return err
		}
		report.SnapshotIndex, report.LastIndex, report.LastTerm = meta.Index, meta.Index, meta.Term
		from = meta.Index + 1
	}
	last, err := stores.Log.LastIndex()
	if err != nil {
		return err
	}
	for index := from; index <= last; index++ {
		var l raft.Log
		if err := stores.Log.GetLog(index, &l); err != nil {
			return err
		}
		if l.Type == raft.LogCommand {
			if r, ok := a.apply([]*raft.Log{&l})[0].(*applied); ok && r.err != nil {
				return r.err
			}
		}
		report.LastIndex, report.LastTerm = l.Index, l.Term
	}
	s := a.machine.State()
	report.ClusterID = orDefault(s.ClusterID(), report.ClusterID)
	report.Groups, report.Instances = s.Groups.Len(), s.Instances.Len()
	return nil
}

func restoreFrom(a *applier, r io.ReadCloser) error {
	defer closeQuietly(r)
	return a.restore(r)
}
