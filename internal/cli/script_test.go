package cli_test

import (
	"context"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
	"github.com/pacelinehq/paceline/internal/cli"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"paceline": func() {
			root := cli.New(cli.Options{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Version: "test"})
			os.Exit(cli.Run(context.Background(), root, os.Args[1:]))
		},
	})
}

// patience bounds every wait of the tests; nothing depends on its length.
const patience = 20 * time.Second

const tokens = "viewer:viewer-token-0001\noperator:operator-token-01\nadmin:admin-token-000001\n"

// TestScripts runs the commands as processes against the real API over a real
// state machine. A script changes the cluster behind the API's back with the
// commands below.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"report": report, "launch": launch, "forget": forget, "broken": broken, "code": code, "follows": follows,
		},
	})
}

type clusterKey struct{}

func setup(e *testscript.Env) error {
	cluster := httpapitest.New("n1")
	httpapitest.Web(cluster)
	file := e.WorkDir + "/tokens"
	if err := os.WriteFile(file, []byte(tokens), 0o600); err != nil {
		return err
	}
	serve := func(tokenFile string) (*httptest.Server, error) {
		s, err := httpapi.New(httpapi.Config{
			Node: "n1", Version: "test", Cluster: cluster, Status: cluster.Status,
			Metrics: &httpapitest.Sink{}, Logs: httpapitest.Logs{Text: "one\ntwo\nthree\n"}, Heartbeats: &httpapitest.Hearts{}, TokenFile: tokenFile,
		})
		if err != nil {
			return nil, err
		}
		s.Start()
		l := httptest.NewServer(s)
		e.Defer(func() {
			_ = s.Shutdown(context.Background())
			l.Close()
		})
		return l, nil
	}
	open, err := serve("")
	if err != nil {
		return err
	}
	guarded, err := serve(file)
	if err != nil {
		return err
	}
	e.Values[clusterKey{}] = cluster
	e.Setenv("PACELINE_ENDPOINTS", open.URL)
	e.Setenv("GUARDED", guarded.URL)
	e.Setenv("ONE", httpapitest.InstanceID(1))
	e.Setenv("TWO", httpapitest.InstanceID(2))
	return nil
}

func clusterOf(ts *testscript.TestScript) *httpapitest.Cluster {
	return ts.Value(clusterKey{}).(*httpapitest.Cluster)
}

// report ID STATE [HEALTH] says as the node what became of an instance.
func report(ts *testscript.TestScript, _ bool, args []string) {
	health := fsm.Health("")
	if len(args) > 2 {
		health = fsm.Health(args[2])
	}
	clusterOf(ts).Report(args[0], fsm.InstanceState(args[1]), health)
}

// launch GROUP ID places an instance as the reconciler does.
func launch(ts *testscript.TestScript, _ bool, args []string) {
	clusterOf(ts).Must(fsm.LaunchInstances{Group: args[0], Term: fsmtest.Term, Launches: []fsm.Launch{{ID: args[1], Node: "n1"}}})
}

// forget GROUP removes a group as the reconciler does, once it is being deleted.
func forget(ts *testscript.TestScript, _ bool, args []string) {
	c := clusterOf(ts)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for s := c.State(); ; {
		if g, ok := s.Groups.Get(args[0]); ok && g.Deleting {
			break
		}
		var err error
		s, err = c.WaitIndex(ctx, s.Index()+1)
		ts.Check(err)
	}
	c.Must(fsm.RemoveGroup{Group: args[0]})
}

// broken KIND makes every write fail with an error of a kind.
func broken(ts *testscript.TestScript, _ bool, args []string) {
	clusterOf(ts).FailWrites(fsm.Errorf(fsm.Kind(args[0]), "cluster", "", "can not do this now"))
}

// follows N waits until services were answered for N times and one reader waits
// for the next change.
func follows(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.New(client.Config{Endpoints: []string{ts.Getenv("PACELINE_ENDPOINTS")}})
	ts.Check(err)
	defer c.Close()
	for {
		a, err := c.Raw(ctx, "GET", "/metrics", nil)
		ts.Check(err)
		text := string(a.Body)
		if strings.Contains(text, `{code="2xx",method="GET",route="/v1/services/{group}"} `+args[0]+"\n") &&
			strings.Contains(text, "paceline_http_service_watchers 1\n") {
			return
		}
	}
}

// code N COMMAND ARGS… runs paceline and checks its exit code.
func code(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("paceline", args[1:]...)
	got := 0
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if (got == want) == neg {
		ts.Fatalf("paceline %q: exit code %d, want %d", args[1:], got, want)
	}
}
