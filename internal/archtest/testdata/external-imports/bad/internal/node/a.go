package node

import (
	_ "github.com/hashicorp/memberlist"
	_ "github.com/hashicorp/raft-boltdb/v2"
)
