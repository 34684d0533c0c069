package top

// Limits of what a node may tell.
const (
	maxLine   = 1 << 20 // bytes of one line of metrics
	maxSeries = 1 << 20 // lines of metrics that are looked at
)
