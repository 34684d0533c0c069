package fsm

type Tx struct{}

type PutThing struct{}

// Name implements Command.
func (PutThing) Name() string { return "PutThing" }

// Apply implements Command.
func (PutThing) Apply(tx *Tx) (any, error) { return nil, nil }

type DropThing struct{}

// Name implements Command.
func (*DropThing) Name() string { return "DropThing" }

// Apply implements Command.
func (*DropThing) Apply(_ *Tx) (any, error) { return nil, nil }

type machine struct{}

// Apply is not a command's.
func (machine) Apply(entries []int) (any, error) { return nil, nil }
