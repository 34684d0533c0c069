package cluster

import (
	_ "github.com/hashicorp/memberlist"
	_ "github.com/hashicorp/raft"
)
