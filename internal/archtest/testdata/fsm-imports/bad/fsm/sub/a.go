package sub

import (
	_ "crypto/rand"
)
