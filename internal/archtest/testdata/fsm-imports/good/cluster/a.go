package cluster

import (
	_ "math/rand/v2"
	_ "os"
	_ "sync"
)
