package fsm

// Planted is a command that exists in tests only: it does what its field says.
type Planted struct {
	Do string `json:"do"`
}

// Name implements [Command].
func (Planted) Name() string { return "Planted" }

// Apply implements [Command].
func (c Planted) Apply(tx *Tx) (any, error) {
	put(tx, &tx.State.Clusters, &Cluster{ID: "written before the end: " + c.Do})
	switch c.Do {
	case "panic":
		panic("planted")
	case "fail":
		return nil, Errorf(Conflict, "planted", "", "fails after a write")
	}
	return "done", nil
}

// PlantCommands adds the test-only commands to the table until undo is called.
func PlantCommands() (undo func()) {
	decoders["Planted"] = as[Planted]
	return func() { delete(decoders, "Planted") }
}

// Corrupt changes a row in place, as a reader must never do.
func Corrupt(s *State, group string) {
	g, _ := s.Groups.Get(group)
	g.Desired++
}

// TableNames lists the tables that are hashed and saved.
func TableNames(s *State) []string {
	var names []string
	for _, t := range s.tables() {
		names = append(names, t.Name())
	}
	return names
}
