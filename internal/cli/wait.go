package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

const (
	watchEach   = 30 * time.Second
	clearScreen = "\x1b[H\x1b[2J"
)

// waitFlag adds --wait[=30s] to a command.
func waitFlag(c *cobra.Command, until string) *string {
	s := c.Flags().String("wait", "", "wait until "+until+"; exit code 3 when the time is over first")
	c.Flags().Lookup("wait").NoOptDefVal = defaultWait
	return s
}

// waitTime reads --wait; 0 means not to wait.
func waitTime(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usagef("--wait=%s is not a time such as 30s", s)
	}
	return d, nil
}

// await reads until done, at most for span, telling progress on a terminal.
// say describes a value; it is also what the error tells when time is over.
func await[T any](ctx context.Context, a *app, span time.Duration, index uint64,
	read func(context.Context, ...client.Option) (*T, error), done func(*T) bool, say func(*T) string,
) error {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	last, live := "", terminal(a.Err)
	_, err := client.WaitFor(ctx, index, read, func(v *T) bool {
		if text := say(v); text != last && live {
			_, _ = fmt.Fprintf(a.Err, "\r\x1b[K%s", clean(text))
			last = text
		} else {
			last = text
		}
		return done(v)
	})
	if live {
		_, _ = fmt.Fprint(a.Err, "\r\x1b[K")
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &client.Problem{
			Title: "Timeout", Code: client.CodeTimeout, Detail: fmt.Sprintf("not done within %s: %s", span, last),
			Hint: "it goes on by itself; the command only stopped waiting",
		}
	}
	return err
}

// awaitGroup waits until a group has what it wants.
func (a *app) awaitGroup(ctx context.Context, c *client.Client, name, wait string, index uint64) error {
	span, err := waitTime(wait)
	if err != nil || span == 0 {
		return err
	}
	read := func(ctx context.Context, opts ...client.Option) (*client.GroupStatus, error) {
		return c.GroupStatus(ctx, name, opts...)
	}
	return await(ctx, a, span, index, read,
		func(st *client.GroupStatus) bool { return st.Converged },
		func(st *client.GroupStatus) string { return "group " + name + ": " + st.Explanation })
}

// awaitGone waits until a resource does not exist any more.
func awaitGone[T any](ctx context.Context, a *app, wait string, what string, index uint64,
	read func(context.Context, ...client.Option) (*T, error),
) error {
	span, err := waitTime(wait)
	if err != nil || span == 0 {
		return err
	}
	never := func(*T) bool { return false }
	err = await(ctx, a, span, index, read, never, func(*T) string { return what + " is still there" })
	if client.CodeOf(err) == fsm.NotFound {
		return nil
	}
	return err
}

// watch shows what read returns; again at every change with on, until the
// user interrupts it. A terminal is redrawn, anything else gets one block after
// the other.
func watch[T any](ctx context.Context, a *app, on bool, read func(context.Context, ...client.Option) (T, error), show func(io.Writer, T) error) error {
	var meta client.Meta
	opts := []client.Option{client.Capture(&meta)}
	var last []byte
	for {
		v, err := read(ctx, opts...)
		if err != nil {
			if on && ctx.Err() != nil {
				return nil
			}
			return err
		}
		var out bytes.Buffer
		if err := show(&out, v); err != nil {
			return err
		}
		if !bytes.Equal(out.Bytes(), last) {
			last = out.Bytes()
			if on && terminal(a.Out) {
				_, _ = io.WriteString(a.Out, clearScreen)
			}
			if _, err := a.Out.Write(last); err != nil {
				return err
			}
		}
		if !on {
			return nil
		}
		opts = []client.Option{client.Capture(&meta), client.WithIndex(meta.Index, watchEach)}
	}
}

func watchFlag(c *cobra.Command) *bool {
	return c.Flags().BoolP("watch", "w", false, "show it again at every change, until interrupted")
}

// pageFlags are those of every listing.
type pageFlags struct {
	limit  int
	cursor string
	all    bool
}

func (p *pageFlags) add(c *cobra.Command) {
	c.Flags().IntVar(&p.limit, "limit", 0, "at most so many")
	c.Flags().StringVar(&p.cursor, "cursor", "", "the next page, as told by the last one")
	c.Flags().BoolVar(&p.all, "all", false, "every page")
}

func (p *pageFlags) options() []client.Option {
	opts := []client.Option{client.WithCursor(p.cursor)}
	if p.limit > 0 {
		opts = append(opts, client.WithLimit(p.limit))
	}
	return opts
}

// pages reads one page, or all of them. Watching sees one page.
func pages[T any](p *pageFlags, list func(context.Context, ...client.Option) (*client.List[T], error)) func(context.Context, ...client.Option) (*client.List[T], error) {
	if !p.all {
		return func(ctx context.Context, opts ...client.Option) (*client.List[T], error) {
			return list(ctx, append(p.options(), opts...)...)
		}
	}
	return func(ctx context.Context, opts ...client.Option) (*client.List[T], error) {
		out := &client.List[T]{}
		for item, err := range client.Pages(ctx, list, append([]client.Option{client.WithLimit(maxPage)}, opts...)...) {
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, item)
		}
		return out, nil
	}
}

const maxPage = 1000

// writeFlags are those of every conditional write.
type writeFlags struct {
	revision uint64
	create   bool
	key      string
}

func (w *writeFlags) add(c *cobra.Command) {
	c.Flags().Uint64Var(&w.revision, "if-revision", 0, "only if it still has this revision")
	c.Flags().StringVar(&w.key, "idempotency-key", "", "makes a repeated command apply once, for 24 hours")
}

func (w *writeFlags) addCreate(c *cobra.Command) {
	w.add(c)
	c.Flags().BoolVar(&w.create, "create-only", false, "fail if it exists")
}

func (w *writeFlags) options() []client.Option {
	opts := []client.Option{client.WithIdempotencyKey(w.key)}
	if w.revision > 0 {
		opts = append(opts, client.IfRevision(w.revision))
	}
	if w.create {
		opts = append(opts, client.IfAbsent())
	}
	return opts
}

// submit sends a document and decodes what the server made of it.
func submit[T any](ctx context.Context, c *client.Client, method, path string, d document, opts ...client.Option) (*T, uint64, error) {
	raw, err := d.json()
	if err != nil {
		return nil, 0, err
	}
	answer, err := c.Raw(ctx, method, path, raw, opts...)
	if err != nil {
		return nil, 0, err
	}
	v := new(T)
	if err := json.Unmarshal(answer.Body, v); err != nil {
		return nil, 0, err
	}
	return v, answer.Index, nil
}
