package a

// Documented is.
type Documented struct{}

// Method is.
func (Documented) Method() {}

type hidden struct{}

func (hidden) Exported() {}

func unexported() {}

// The colours of things.
const (
	Red   = 1
	Green = 2
)

const (
	Blue = 3 // Blue is explained at the end of its line.
	// White is explained above.
	White = 4
)

type (
	// First is.
	First struct{}
)
