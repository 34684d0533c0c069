package top

import (
	_ "charm.land/bubbletea/v2"
	_ "charm.land/lipgloss/v2"
)
