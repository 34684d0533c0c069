package collect

// Limits of a reading.
const (
	maxPage    = 1000   // rows of one listing
	maxRows    = 20_000 // groups or instances of a reading; further ones are left out
	maxNodes   = 1000
	maxScrapes = 32 // nodes asked at the same time
	maxAsked   = 3  // endpoints asked for what the cluster knows
)
