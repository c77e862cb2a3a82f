// Package mongo parses MongoDB's wire protocol: bytes of messages into what a span says
// of a command and its reply. It knows nothing of where the bytes come from, and takes
// what there is: of a message of which only the beginning was kept, everything that the
// beginning says. Input is hostile; nothing recurses on it.
//
// https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
package mongo
