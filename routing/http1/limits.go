package http1

// Limits bounds what one peer can make a Reader hold. A zero means the default.
type Limits struct {
	// InitialBuffer is the size of the buffer that a head is read into at first.
	InitialBuffer int
	// MaxHead bounds a head: its first line, its fields and the line breaks.
	MaxHead int
	// MaxTarget bounds the target of a request.
	MaxTarget int
	// MaxFields bounds how many fields a head or a trailer section has.
	MaxFields int
	// MaxChunkLine bounds the line in front of a chunk: its size and extensions.
	MaxChunkLine int
	// MaxTrailer bounds the fields behind the last chunk.
	MaxTrailer int
}

const (
	defaultInitialBuffer = 4 << 10
	defaultMaxHead       = 32 << 10
	defaultMaxTarget     = 8 << 10
	defaultMaxFields     = 128
	defaultMaxChunkLine  = 256
	defaultMaxTrailer    = 4 << 10

	// copyBuffer is the size of the buffers that large bodies pass through. A
	// chunk of ours is never larger, so that four digits hold its size.
	copyBuffer = 32 << 10
	// bodyWindow is the room behind a head that a large body needs before it is
	// given a buffer of its own.
	bodyWindow = 8 << 10
	// maxFill bounds what Fill gathers, and with it the lines within a body.
	maxFill = 16 << 10

	// maxMethod is twice the longest registered name of a method, more or less.
	maxMethod = 32
	// lineRest is what a request line has besides its target, at most.
	lineRest = maxMethod + len("  HTTP/1.1\r\n")
	// maxVersion is what is looked at for the end of a request line.
	maxVersion = 16
	// maxEmptyLines is how many empty lines are skipped before a request.
	maxEmptyLines = 4
	// maxOptions bounds the options of Connection, each of which is looked for
	// among the fields.
	maxOptions = 32
	// maxExtensions bounds the bytes of chunk extensions that are not
	// outweighed by data: they are read and thrown away.
	maxExtensions = 16 << 10
	// maxEmptyReads is how often a source may return nothing in a row.
	maxEmptyReads = 100
	// headStep is how many bytes without a line break are worth another look at
	// an incomplete head.
	headStep = 1 << 10
	// spliceFrom is the rest of a body from which two pipes pay for themselves.
	spliceFrom = 64 << 10
	// pipeSize is what the kernel may hold between two connections.
	pipeSize = 256 << 10
)

// standard limits hold for ParseRequest and ParseResponse. Nobody changes them.
var standard = Limits{}.withDefaults()

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		value             *int
		standard, largest int
	}{
		{&l.InitialBuffer, defaultInitialBuffer, 1 << 20},
		{&l.MaxHead, defaultMaxHead, 1 << 20},
		{&l.MaxTarget, defaultMaxTarget, 1 << 20},
		{&l.MaxFields, defaultMaxFields, 1 << 12},
		{&l.MaxChunkLine, defaultMaxChunkLine, maxFill},
		{&l.MaxTrailer, defaultMaxTrailer, maxFill},
	} {
		if *f.value <= 0 {
			*f.value = f.standard
		}
		*f.value = min(*f.value, f.largest)
	}
	// A buffer holds at least one line of a chunk.
	l.InitialBuffer = max(l.InitialBuffer, 64)
	l.MaxChunkLine = max(l.MaxChunkLine, 32)
	return l
}
