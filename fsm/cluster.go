package fsm

import "time"

const clusterKey = "cluster"

// Cluster is the identity of the cluster: one row, written once by the first
// leader. A data directory or a gossip peer with another ID is refused.
type Cluster struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"createdAt"`
	// FeatureLevel is the lowest level that every member has; a replicated
	// command raises it, never a restart alone.
	FeatureLevel int `json:"featureLevel"`
}

var clusterTable = tableSpec[Cluster]{
	name: "clusters", noun: "cluster", key: func(*Cluster) string { return clusterKey },
}

// InitCluster gives a new cluster its identity. It changes nothing when the
// cluster has one, so that every leader may propose it.
type InitCluster struct {
	ID string `json:"id"`
}

// Name implements [Command].
func (InitCluster) Name() string { return "InitCluster" }

// Apply implements [Command]; its value is the [*Cluster] in force.
func (c InitCluster) Apply(tx *Tx) (any, error) {
	if have, ok := tx.Clusters.Get(clusterKey); ok {
		return have, nil
	}
	if c.ID == "" {
		return nil, Errorf(Invalid, "cluster", "", "has no id")
	}
	return put(tx, &tx.State.Clusters, &Cluster{ID: c.ID, CreatedAt: tx.Meta.Time, FeatureLevel: 1}), nil
}
