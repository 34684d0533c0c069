package proxy

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"
)

// accessLog writes a share of the requests, and all that failed.
type accessLog struct {
	share float64
	log   *slog.Logger
}

func (a *accessLog) write(x *exchange, now time.Duration) {
	failed := x.status >= 500 || x.err != nil
	if a.share <= 0 || !failed && a.share < 1 && rand.Float64() >= a.share {
		return
	}
	req := &x.w.req
	attrs := []slog.Attr{
		slog.String("group", x.t.group), slog.String("method", string(req.Method)), slog.String("host", string(req.Host)),
		slog.String("path", string(req.Path)), slog.Int("status", x.status), slog.Int64("bytes", x.received),
		slog.Duration("head", x.head), slog.Duration("total", now-x.began), slog.Any("client", x.client),
	}
	if x.up != nil {
		attrs = append(attrs, slog.String("instance", x.up.Instance))
	}
	if x.before+x.retries > 0 {
		attrs = append(attrs, slog.Int("retries", x.before+x.retries))
	}
	if x.err != nil {
		attrs = append(attrs, slog.String("err", x.err.Error()))
	}
	a.log.LogAttrs(x.from.p.life, slog.LevelInfo, "request", attrs...)
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
