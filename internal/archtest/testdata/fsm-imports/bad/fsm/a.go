package fsm

import (
	_ "github.com/hashicorp/raft"
	_ "github.com/pacelinehq/paceline/client"
	_ "math/rand/v2"
	_ "net/http"
	_ "os"
	_ "sync"
)
