// Package k8s finds the pod of a container: one watch of this node's pods, kept in
// memory, and pure lookups. It needs no right but to list and watch pods, so that the
// owner of a ReplicaSet or a Job is taken from their names, which Kubernetes makes by rule.
package k8s
