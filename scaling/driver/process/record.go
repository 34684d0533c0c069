//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// step is how far an instance has come, on disk.
//
//	intent ──► started ──► ended
//	   └───────────────────►┘  (found dead after a restart of the node)
type step string

const (
	// intent is written, and synced, before the process may exist.
	intent step = "intent"
	// started has a pid.
	started step = "started"
	// ended is never started again.
	ended step = "ended"
)

// record is what the driver keeps of an instance on disk, so that the next
// process of the node finds it again.
type record struct {
	ID        string        `json:"id"`
	Group     string        `json:"group"`
	Term      uint64        `json:"term"`
	Step      step          `json:"step"`
	Argv      []string      `json:"argv"`
	Resources fsm.Resources `json:"resources"`
	Host      string        `json:"host"`
	Port      int           `json:"port"`
	// PID, Start and Boot identify the process: a pid alone is used again.
	PID       int          `json:"pid,omitempty"`
	Start     uint64       `json:"start,omitempty"`
	Boot      string       `json:"boot,omitempty"`
	StartedAt time.Time    `json:"startedAt"`
	Cgroup    []string     `json:"cgroup,omitempty"`
	Limits    string       `json:"limits"`
	Exit      *driver.Exit `json:"exit,omitempty"`
}

const (
	recordFile = "state.json"
	logFile    = "log"
)

// save replaces the record on disk. A reader sees the old one or the new one.
// With sync the new one also survives a power cut.
func (r *record) save(dir string, sync bool) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, recordFile+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, recordFile))
	}
	if err == nil && sync {
		err = errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads the record of an instance's directory. One that can not be read
// is taken for an intent: the processes of the machine say what became of it.
func load(dir string) *record {
	id := filepath.Base(dir)
	r := &record{}
	b, err := readCapped(filepath.Join(dir, recordFile), maxRecord)
	if err != nil || json.Unmarshal(b, r) != nil || r.ID != id {
		return &record{ID: id, Step: intent, Limits: "not known"}
	}
	return r
}

func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.LimitReader(f, limit))
}

// loadAll reads the records of every instance.
func loadAll(dir string) ([]*record, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*record
	for _, e := range entries {
		if e.IsDir() && driver.CheckID(e.Name()) == nil {
			list = append(list, load(filepath.Join(dir, e.Name())))
		}
	}
	return list, nil
}
