package cluster

import (
	_ "github.com/danielgtaylor/huma/v2"
	_ "github.com/gin-gonic/gin"
)
