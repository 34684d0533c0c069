//go:build linux

package process

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// A log is one stream of bytes, of which rotation has put older parts away:
//
//	log.3 | log.2 | log.1 | log
//	                      ^ base: how many bytes were written before
//
// The instance writes "log" by itself and never reopens it, so rotation copies
// the file and truncates it. What is written between the two is lost; that is
// the price of a process that does not depend on the node for its output.

// baseFile remembers base over a restart of the node.
const baseFile = "log.base"

// rotateLogs looks at the logs of running instances from time to time.
func (d *Driver) rotateLogs() {
	tick := time.NewTicker(d.cfg.LogEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
			for _, i := range d.live() {
				if err := d.rotate(i); err != nil {
					d.log.Warn("a log can not be rotated", "instance", i.id, "error", err)
				}
			}
		}
	}
}

// rotate puts a log away that has grown too large.
func (d *Driver) rotate(i *instance) error {
	i.logMu.Lock()
	defer i.logMu.Unlock()
	path := filepath.Join(i.dir, logFile)
	info, err := os.Stat(path)
	if err != nil || info.Size() < d.cfg.LogBytes {
		return err
	}
	if d.cfg.LogFiles > 0 {
		for k := d.cfg.LogFiles; k > 1; k-- {
			err := os.Rename(rotated(path, k-1), rotated(path, k))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := copyEnd(path, rotated(path, 1), info.Size(), d.cfg.LogBytes); err != nil {
			return err
		}
	}
	// What a busy instance has written since the copy goes; it counts.
	base := logBase(i.dir) + max(info.Size(), fileSize(path))
	if err := os.Truncate(path, 0); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(i.dir, baseFile), []byte(strconv.FormatInt(base, 10)), 0o600)
}

func rotated(path string, k int) string { return path + "." + strconv.Itoa(k) }

// copyEnd copies the last bytes of a file, about limit of them. What is written
// meanwhile is copied too, so that as little as can be is lost.
func copyEnd(from, to string, size, limit int64) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	skip := max(0, size-limit)
	_, err = io.Copy(dst, io.NewSectionReader(src, skip, 2*limit))
	return errors.Join(err, dst.Close())
}

// logBase is how many bytes of a log have been put away.
func logBase(dir string) int64 {
	b, err := readCapped(filepath.Join(dir, baseFile), 32)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(string(b), 10, 64)
	return max(0, n)
}

// Logs implements [driver.Driver].
func (d *Driver) Logs(_ context.Context, id string, q driver.LogQuery) (driver.LogChunk, error) {
	i, err := d.get(id)
	if err != nil {
		return driver.LogChunk{}, err
	}
	i.logMu.Lock()
	defer i.logMu.Unlock()
	parts := d.logParts(i.dir)
	c, err := readLog(parts, q)
	if err != nil {
		return driver.LogChunk{}, fsm.Errorf(fsm.Unavailable, "instance", id, "its log can not be read: %v", err)
	}
	return c, nil
}

// logPart is one file of a log and where it lies in the stream.
type logPart struct {
	path     string
	from, to int64
}

// logParts lists the files of a log, oldest first.
func (d *Driver) logParts(dir string) []logPart {
	path := filepath.Join(dir, logFile)
	base := logBase(dir)
	parts := []logPart{{path, base, base + fileSize(path)}}
	for k, end := 1, base; k <= d.cfg.LogFiles; k++ {
		size := fileSize(rotated(path, k))
		if size == 0 {
			break
		}
		parts = append([]logPart{{rotated(path, k), end - size, end}}, parts...)
		end -= size
	}
	return parts
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// readLog reads from the files of a log what a query asks for.
func readLog(parts []logPart, q driver.LogQuery) (driver.LogChunk, error) {
	first, end := parts[0].from, parts[len(parts)-1].to
	limit := int64(q.Bound())
	tail := q.Offset < 0
	from := min(max(q.Offset, first), end)
	if tail {
		from = max(first, end-limit)
	}
	to := min(end, from+limit)
	data := make([]byte, 0, to-from)
	for _, p := range parts {
		a, b := max(from, p.from), min(to, p.to)
		if a >= b {
			continue
		}
		piece, err := readRange(p.path, a-p.from, b-a)
		if err != nil {
			return driver.LogChunk{}, err
		}
		data = append(data, piece...)
	}
	if tail {
		data = driver.LastLines(data, q.TailLines)
		return driver.LogChunk{Data: data, Offset: to - int64(len(data)), Next: to}, nil
	}
	return driver.LogChunk{Data: data, Offset: from, Next: to}, nil
}

func readRange(path string, at, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b := make([]byte, n)
	_, err = io.ReadFull(io.NewSectionReader(f, at, n), b)
	return b, err
}
