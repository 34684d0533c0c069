package scaling

import (
	_ "github.com/hashicorp/raft"
	_ "github.com/spf13/cobra"
)
