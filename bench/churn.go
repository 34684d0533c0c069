package main

import (
	"context"
	"fmt"
	"time"
)

// slowEvery is how many of the connections share one that asks for slow
// answers, so that some are always in hand when an origin goes.
const slowEvery = 16

func mostlyQuick(conn int) string {
	if conn%slowEvery == 0 {
		return "/slow?ms=100"
	}
	return "/"
}

// measureChurn changes the group in all ways that the API has while requests
// run at full rate. None may fail: an origin is drained before it is ended.
func measureChurn(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	l, w, err := newLoop(st, 0, churnDeadline, mostlyQuick)
	if err != nil {
		return err
	}
	defer w.close()
	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	changed := make(chan error, 1)
	go func() {
		defer stopLoad()
		stopFollow := startFollowing(loading, st)
		err := churn(loading, st.fleet)
		if followErr := stopFollow(); err == nil {
			err = followErr
		}
		changed <- err
	}()
	res, err := l.run(loading)
	stopLoad()
	if changeErr := <-changed; err == nil {
		err = changeErr
	}
	if err != nil {
		return err
	}
	recordLoop(o, st, r, "churn", l, res)
	return nil
}

// startFollowing tells a proxy which has to be told about every change, until
// the function that it returns is called.
func startFollowing(ctx context.Context, st *stage) (stop func() error) {
	if st.follow == nil {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		var err error
		_ = poll(ctx, 20*time.Millisecond, func() bool {
			var list []instance
			if list, _, err = st.fleet.status(ctx); err == nil {
				err = st.follow(list)
			}
			return err != nil
		})
		if ctx.Err() != nil {
			err = nil // a question that was broken off
		}
		ended <- err
	}()
	return func() error {
		cancel()
		return <-ended
	}
}

// churn scales out, replaces two instances, and scales in, twice.
func churn(ctx context.Context, f *fleet) error {
	const rest = 300 * time.Millisecond
	for range 2 {
		if err := pause(ctx, rest); err != nil {
			return err
		}
		if err := f.resize(ctx, churnOrigins); err != nil {
			return err
		}
		if err := pause(ctx, rest); err != nil {
			return err
		}
		list, err := f.running(ctx)
		if err != nil {
			return err
		}
		if len(list) != churnOrigins {
			return fmt.Errorf("%d origins run, want %d", len(list), churnOrigins)
		}
		for _, i := range list[:2] {
			if err := f.remove(ctx, i.ID); err != nil {
				return err
			}
		}
		if err := f.waitFor(ctx, churnOrigins); err != nil {
			return err
		}
		if err := pause(ctx, rest); err != nil {
			return err
		}
		if err := f.resize(ctx, origins); err != nil {
			return err
		}
	}
	return pause(ctx, rest)
}

func (f *fleet) resize(ctx context.Context, n int) error {
	if err := f.scale(ctx, n); err != nil {
		return err
	}
	return f.waitFor(ctx, n)
}
