package fsm

import (
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// SampleCommand is the command of the built-in sample application: the
// node's own binary, allowed everywhere.
const SampleCommand = "@sample"

// Template says what an instance is. Each version is immutable: a change
// makes the next version, and instances keep the one they were launched from.
type Template struct {
	Name    string `json:"name"`
	Version int    `json:"version"`

	// Driver runs the instances: "process" or another driver of the nodes.
	Driver string `json:"driver"`
	// Command is an absolute path on the node's allow-list, or "@sample".
	Command      string            `json:"command,omitempty"`
	Args         []string          `json:"args,omitempty"`
	Image        string            `json:"image,omitempty"`
	InstanceType string            `json:"instanceType,omitempty"`
	Resources    Resources         `json:"resources,omitzero"`
	Environment  map[string]string `json:"environment,omitempty"`
	HealthCheck  *HealthCheck      `json:"healthCheck,omitempty"`
	Stop         *Stop             `json:"stop,omitempty"`
	Networking   *Networking       `json:"networking,omitempty"`
	UserData     string            `json:"userData,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	PricePerHour float64           `json:"pricePerHour,omitempty"`

	CreatedAt time.Time `json:"createdAt"`
	Revision  uint64    `json:"revision"`
}

// Resources is what one instance may use, or what one node offers.
type Resources struct {
	// CPU is in cores; 0.5 is half a core. 0 in a template means unlimited
	// and reserves nothing.
	CPU float64 `json:"cpu,omitempty"`
	// MemoryMiB is in MiB; 0 in a template means unlimited.
	MemoryMiB  int64 `json:"memoryMiB,omitempty"`
	StorageGiB int64 `json:"storageGiB,omitempty"`
}

// HealthCheck says how an instance shows that it can serve.
type HealthCheck struct {
	// Type is "http", "tcp", "grpc", "exec", "ttl" or "none".
	Type string `json:"type"`
	// Path is requested by an http check; 2xx and 3xx are healthy.
	Path string `json:"path,omitempty"`
	// Service is what a grpc check asks for (grpc.health.v1); the default is
	// the whole server. SERVING is healthy.
	Service string `json:"service,omitempty"`
	// Port overrides the instance's port.
	Port int `json:"port,omitempty"`
	// Command is run by an exec check, argv without a shell, on the node's
	// allow-list; exit status 0 is healthy.
	Command []string `json:"command,omitempty"`
	// TTL is how long a heartbeat of a ttl check counts. The instance sends it
	// to PUT /v1/instances/{id}/health of any node.
	TTL      Duration `json:"ttl,omitzero"`
	Interval Duration `json:"interval,omitzero"`
	Timeout  Duration `json:"timeout,omitzero"`
	// Rise and Fall are how many answers in a row change the health.
	Rise int `json:"rise,omitempty"`
	Fall int `json:"fall,omitempty"`
	// Grace is how long after its start an instance may be not healthy yet.
	Grace Duration `json:"grace,omitzero"`
}

// Stop says how an instance is ended: no new work for Grace, then Signal,
// then KILL after Timeout.
type Stop struct {
	// Signal is "TERM" (the default), "INT", "QUIT" or "HUP".
	Signal string `json:"signal,omitempty"`
	// Grace is the time between draining and the signal.
	Grace Duration `json:"grace,omitzero"`
	// Timeout is the time between the signal and KILL.
	Timeout Duration `json:"timeout,omitzero"`
}

// Networking says on which address an instance listens.
type Networking struct {
	// Port is a fixed port; 0 lets the node choose a free one, which is the
	// only choice when a node may run two instances of the template.
	Port int `json:"port,omitempty"`
}

// Health check types.
const (
	CheckNone = "none"
	CheckHTTP = "http"
	CheckTCP  = "tcp"
	CheckGRPC = "grpc"
	CheckExec = "exec"
	CheckTTL  = "ttl"
)

var templateTable = tableSpec[Template]{
	name: "templates", noun: "template", encoded: true,
	key:   func(t *Template) string { return t.Name },
	stamp: func(t *Template, r uint64) { t.Revision = r },
}

// templateVersionTable keeps superseded versions while something uses them.
// The current version stands in templateTable only.
var templateVersionTable = tableSpec[Template]{
	name: "templateVersions", noun: "template version", encoded: true,
	key: func(t *Template) string { return seqKey(t.Name, uint64(t.Version)) },
}

// CheckOrDefault returns the template's health check with every default
// filled in.
func (t *Template) CheckOrDefault() HealthCheck {
	if t.HealthCheck == nil {
		return HealthCheck{Type: CheckNone}
	}
	c := *t.HealthCheck
	if c.Type == CheckTTL {
		// One missed heartbeat tells as much as several failed checks, and the
		// first may take as long as any other.
		c.TTL = c.TTL.or(c.Interval.or(10 * time.Second).Std())
		c.Interval = c.TTL
		c.Grace = c.Grace.or(max(30*time.Second, c.TTL.Std()))
		c.Fall = max(c.Fall, 1)
	}
	c.Interval = c.Interval.or(2 * time.Second)
	c.Timeout = c.Timeout.or(time.Second)
	c.Grace = c.Grace.or(30 * time.Second)
	c.Rise = max(c.Rise, 1)
	if c.Fall == 0 {
		c.Fall = 3
	}
	if c.Type == CheckHTTP && c.Path == "" {
		c.Path = "/"
	}
	return c
}

// StopOrDefault returns the template's stop rule with every default filled in.
func (t *Template) StopOrDefault() Stop {
	s := Stop{}
	if t.Stop != nil {
		s = *t.Stop
	}
	if s.Signal == "" {
		s.Signal = "TERM"
	}
	s.Timeout = s.Timeout.or(10 * time.Second)
	return s
}

// Validate returns every problem of the template as one error.
func (t *Template) Validate() error {
	var f fieldErrors
	f.name("name", t.Name)
	f.check(t.Driver != "", "driver", "is required; \"process\" is built in")
	t.validateCommand(&f)
	f.check(len(t.UserData) <= maxUserData, "userData", "has %d bytes, at most %d are allowed", len(t.UserData), maxUserData)
	f.check(finite(t.PricePerHour) && t.PricePerHour >= 0, "pricePerHour", "must be 0 or more")
	f.labels("labels", t.Labels)
	f.resources("resources", t.Resources)
	f.environment("environment", t.Environment)
	if t.HealthCheck != nil {
		t.HealthCheck.validate(&f)
	}
	if t.Stop != nil {
		t.Stop.validate(&f)
	}
	if t.Networking != nil {
		f.port("networking.port", t.Networking.Port)
	}
	return f.err("template", t.Name)
}

func (t *Template) validateCommand(f *fieldErrors) {
	if t.Driver == "process" {
		ok := t.Command == SampleCommand || filepath.IsAbs(t.Command)
		f.check(ok, "command", "must be an absolute path of an executable, or %q", SampleCommand)
	}
	f.check(len(t.Command) <= maxArg && !strings.ContainsRune(t.Command, 0), "command", "must be at most %d bytes, without a NUL", maxArg)
	f.check(len(t.Args) <= maxArgs, "args", "has %d entries, at most %d are allowed", len(t.Args), maxArgs)
	for _, a := range t.Args {
		f.check(len(a) <= maxArg && !strings.ContainsRune(a, 0), "args", "has an entry over %d bytes or with a NUL", maxArg)
	}
}

func (f *fieldErrors) resources(field string, r Resources) {
	if r == (Resources{}) {
		return
	}
	f.check(finite(r.CPU) && r.CPU >= 0 && r.CPU <= maxNodeCPU, field+".cpu", "must be between 0 and %d cores", maxNodeCPU)
	f.check(r.MemoryMiB >= 0 && r.MemoryMiB <= maxNodeMemory, field+".memoryMiB", "must be 0 or more")
	f.check(r.StorageGiB >= 0, field+".storageGiB", "must be 0 or more")
}

func (f *fieldErrors) environment(field string, env map[string]string) {
	if len(env) == 0 {
		return
	}
	f.check(len(env) <= maxEnvironment, field, "has more than %d entries", maxEnvironment)
	for _, k := range sortedKeys(env) {
		if !envPattern.MatchString(k) {
			f.add(field+"."+k, "is not a name of an environment variable")
		}
		if len(env[k]) > maxArg || strings.ContainsRune(env[k], 0) {
			f.add(field+"."+k, "must be at most %d bytes, without a NUL", maxArg)
		}
	}
}

func (f *fieldErrors) port(field string, port int) {
	f.check(port >= 0 && port <= math.MaxUint16, field, "must be between 0 (any) and 65535")
}

func (f *fieldErrors) span(field string, d Duration, limit time.Duration) {
	f.check(d >= 0 && d.Std() <= limit, field, "must be between 0s and %s", limit)
}

func (c *HealthCheck) validate(f *fieldErrors) {
	types := []string{CheckNone, CheckHTTP, CheckTCP, CheckGRPC, CheckExec, CheckTTL}
	f.check(slices.Contains(types, c.Type), "healthCheck.type", "must be one of %s", strings.Join(types, ", "))
	f.check(c.Type != CheckExec || len(c.Command) > 0, "healthCheck.command", "is required for an exec check")
	f.check(c.Service == "" || c.Type == CheckGRPC, "healthCheck.service", "is for grpc checks only")
	f.check(len(c.Service) <= maxGRPCService && utf8.ValidString(c.Service), "healthCheck.service", "must be at most %d bytes of UTF-8", maxGRPCService)
	f.check(c.Path == "" || strings.HasPrefix(c.Path, "/"), "healthCheck.path", "must begin with /")
	f.port("healthCheck.port", c.Port)
	f.check(c.TTL == 0 || c.Type == CheckTTL, "healthCheck.ttl", "is for ttl checks only")
	f.span("healthCheck.ttl", c.TTL, time.Hour)
	f.check(c.TTL == 0 || c.TTL.Std() >= 100*time.Millisecond, "healthCheck.ttl", "must be at least 100ms")
	f.span("healthCheck.interval", c.Interval, time.Hour)
	f.span("healthCheck.timeout", c.Timeout, time.Minute)
	f.span("healthCheck.grace", c.Grace, time.Hour)
	f.check(c.Interval == 0 || c.Interval.Std() >= 100*time.Millisecond, "healthCheck.interval", "must be at least 100ms")
	f.check(c.Rise >= 0 && c.Rise <= 100, "healthCheck.rise", "must be between 0 and 100")
	f.check(c.Fall >= 0 && c.Fall <= 100, "healthCheck.fall", "must be between 0 and 100")
}

func (s *Stop) validate(f *fieldErrors) {
	signals := []string{"", "TERM", "INT", "QUIT", "HUP", "KILL"}
	f.check(slices.Contains(signals, s.Signal), "stop.signal", "must be one of TERM, INT, QUIT, HUP, KILL")
	f.span("stop.grace", s.Grace, time.Hour)
	f.span("stop.timeout", s.Timeout, time.Hour)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// sameSpec reports whether two versions describe the same instances.
func (t *Template) sameSpec(o *Template) bool {
	a, b := *t, *o
	a.Version, a.Revision, a.CreatedAt = 0, 0, time.Time{}
	b.Version, b.Revision, b.CreatedAt = 0, 0, time.Time{}
	return reflect.DeepEqual(a, b)
}

// TemplateAt returns one version of a template, current or superseded.
func (s *State) TemplateAt(name string, version int) (*Template, error) {
	if t, ok := s.Templates.Get(name); ok && t.Version == version {
		return t, nil
	}
	return s.TemplateVersions.Lookup(seqKey(name, uint64(version)))
}

// PutTemplate creates a template or makes its next version. The same
// description again changes nothing.
type PutTemplate struct {
	Template   Template `json:"template"`
	IfRevision *uint64  `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (PutTemplate) Name() string { return "PutTemplate" }

// Apply implements [Command]; its value is the current [*Template].
func (c PutTemplate) Apply(tx *Tx) (any, error) {
	t := c.Template
	if err := t.Validate(); err != nil {
		return nil, err
	}
	t.Version, t.CreatedAt = 1, tx.Meta.Time
	old, exists := tx.Templates.Get(t.Name)
	if !exists {
		if err := checkRevision("template", t.Name, c.IfRevision, 0); err != nil {
			return nil, err
		}
		return put(tx, &tx.State.Templates, &t), nil
	}
	if err := checkRevision("template", t.Name, c.IfRevision, old.Revision); err != nil {
		return nil, err
	}
	if t.sameSpec(old) {
		return old, nil
	}
	if tx.templateInUse(t.Name, old.Version) {
		put(tx, &tx.State.TemplateVersions, old)
	}
	t.Version = old.Version + 1
	return put(tx, &tx.State.Templates, &t), nil
}

// DeleteTemplate removes a template that no group uses.
type DeleteTemplate struct {
	Template   string  `json:"template"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (DeleteTemplate) Name() string { return "DeleteTemplate" }

// Apply implements [Command]; its value is the removed [*Template].
func (c DeleteTemplate) Apply(tx *Tx) (any, error) {
	t, err := tx.Templates.Lookup(c.Template)
	if err != nil {
		return nil, err
	}
	if err := checkRevision("template", c.Template, c.IfRevision, t.Revision); err != nil {
		return nil, err
	}
	for _, g := range tx.Groups.All() {
		if g.Template == c.Template {
			return nil, Errorf(Conflict, "template", c.Template, "is used by group %q", g.Name).
				WithHint("delete the group, or give it another template, first")
		}
	}
	if err := tx.checkRunsNowhere(c.Template); err != nil {
		return nil, err
	}
	del(tx, &tx.State.Templates, c.Template)
	delPrefix(tx, &tx.State.TemplateVersions, c.Template+"/")
	return t, nil
}

// checkRunsNowhere refuses when a template still runs: instances of a group
// that has another template by now, and that were not replaced yet.
func (tx *Tx) checkRunsNowhere(name string) error {
	group, first, n := "", "", 0
	for id, i := range tx.Instances.All() {
		if i.Template != name || i.State.Terminal() {
			continue
		}
		if n == 0 {
			group, first = i.Group, id
		}
		n++
	}
	if n == 0 {
		return nil
	}
	what := "instance " + first + " runs it"
	if n > 1 {
		what = fmt.Sprintf("%d instances run it, %s first", n, first)
	}
	return Errorf(Conflict, "template", name, "is used by group %q: %s", group, what).
		WithHint("wait until they have ended, or stop them: paceline instance stop %s", first)
}

// templateInUse reports whether a group or a living instance refers to a
// version. The instance may be of a group that has another template by now.
func (tx *Tx) templateInUse(name string, version int) bool {
	for _, g := range tx.Groups.All() {
		if g.Template == name && g.Version == version {
			return true
		}
	}
	for _, i := range tx.Instances.All() {
		if i.Template == name && i.Version == version && !i.State.Terminal() {
			return true
		}
	}
	return false
}

// dropEndedVersions removes the superseded versions whose last instance the
// entry has ended: once an entry, since one may end many.
func (tx *Tx) dropEndedVersions() {
	if tx.TemplateVersions.Len() == 0 { // as a rule; the rows need not be decoded
		return
	}
	var ended []string
	for _, c := range tx.changes {
		if c.Table != instanceTable.name {
			continue
		}
		before, _ := c.Old().(*Instance)
		after, _ := c.New().(*Instance)
		if before == nil || before.State.Terminal() || after != nil && !after.State.Terminal() {
			continue
		}
		superseded := tx.TemplateVersions.Has(seqKey(before.Template, uint64(before.Version)))
		if superseded && !slices.Contains(ended, before.Template) {
			ended = append(ended, before.Template)
		}
	}
	for _, name := range ended {
		tx.dropUnusedVersions(name)
	}
}

// dropUnusedVersions removes superseded versions of a template that nothing
// refers to any more.
func (tx *Tx) dropUnusedVersions(name string) {
	var unused []string
	for key, t := range tx.TemplateVersions.Prefix(name + "/") {
		if !tx.templateInUse(name, t.Version) {
			unused = append(unused, key)
		}
	}
	for _, key := range unused {
		del(tx, &tx.State.TemplateVersions, key)
	}
}
