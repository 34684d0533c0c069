package cluster

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLogger gives hashicorp/raft our slog.Logger.
type raftLogger struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*raftLogger)(nil)

var slogLevels = map[hclog.Level]slog.Level{
	hclog.Trace: slog.LevelDebug - 4, hclog.Debug: slog.LevelDebug, hclog.Info: slog.LevelInfo,
	hclog.Warn: slog.LevelWarn, hclog.Error: slog.LevelError,
}

func (l *raftLogger) enabled(level hclog.Level) bool {
	return l.log.Enabled(context.Background(), slogLevels[level])
}

// connectionEnded is what raft logs as an error whenever a peer closes its
// connection, as each one does that stops.
const connectionEnded = "failed to decode incoming command"

// Log implements [hclog.Logger].
func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	if msg == connectionEnded {
		level = hclog.Debug
	}
	if !l.enabled(level) {
		return
	}
	out := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case hclog.Format:
			if format, ok := v[0].(string); ok {
				a = fmt.Sprintf(format, v[1:]...)
			}
		case error:
			a = v.Error()
		case fmt.Stringer:
			a = v.String()
		}
		out[i] = a
	}
	l.log.Log(context.Background(), slogLevels[level], msg, out...)
}

// Trace implements [hclog.Logger].
func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug implements [hclog.Logger].
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements [hclog.Logger].
func (l *raftLogger) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements [hclog.Logger].
func (l *raftLogger) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements [hclog.Logger].
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

// IsTrace implements [hclog.Logger].
func (l *raftLogger) IsTrace() bool { return l.enabled(hclog.Trace) }

// IsDebug implements [hclog.Logger].
func (l *raftLogger) IsDebug() bool { return l.enabled(hclog.Debug) }

// IsInfo implements [hclog.Logger].
func (l *raftLogger) IsInfo() bool { return l.enabled(hclog.Info) }

// IsWarn implements [hclog.Logger].
func (l *raftLogger) IsWarn() bool { return l.enabled(hclog.Warn) }

// IsError implements [hclog.Logger].
func (l *raftLogger) IsError() bool { return l.enabled(hclog.Error) }

// ImpliedArgs implements [hclog.Logger].
func (l *raftLogger) ImpliedArgs() []any { return l.args }

// With implements [hclog.Logger].
func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{log: l.log.With(args...), name: l.name, args: append(l.args[:len(l.args):len(l.args)], args...)}
}

// Name implements [hclog.Logger].
func (l *raftLogger) Name() string { return l.name }

// Named implements [hclog.Logger].
func (l *raftLogger) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

// ResetNamed implements [hclog.Logger].
func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	return &raftLogger{log: l.log, name: name, args: l.args}
}

// SetLevel implements [hclog.Logger]; the level is that of the slog.Logger.
func (l *raftLogger) SetLevel(hclog.Level) {}

// GetLevel implements [hclog.Logger].
func (l *raftLogger) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn} {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Error
}

// StandardLogger implements [hclog.Logger].
func (l *raftLogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}

// StandardWriter implements [hclog.Logger].
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return &prefixWriter{log: l.log}
}

// prefixWriter turns lines such as "[WARN] memberlist: text" into records of
// the level that the prefix names.
type prefixWriter struct {
	log *slog.Logger
}

// Write logs one line.
func (w *prefixWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelInfo
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if prefix, text, ok := strings.Cut(rest, "] "); ok {
			line = strings.TrimPrefix(text, "memberlist: ")
			level = levelOf(prefix)
		}
	}
	w.log.Log(context.Background(), level, line)
	return len(p), nil
}

func levelOf(prefix string) slog.Level {
	switch prefix {
	case "TRACE", "DEBUG":
		return slog.LevelDebug
	case "WARN":
		return slog.LevelWarn
	case "ERR", "ERROR":
		return slog.LevelError
	}
	return slog.LevelInfo
}
