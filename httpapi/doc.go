// Package httpapi serves the sync protocol over HTTP.
//
// It turns requests into calls of oversync.SyncService and the service's typed
// errors into the statuses and codes of the protocol. It holds no SQL and no
// sync rule of its own.
//
// There are two ways to use it:
//
//   - NewRouter gives one http.Handler with every route, authentication, body
//     limits, request ids and logging. The oversync binary serves that.
//   - NewHTTPSyncHandlers gives the handlers alone, for an application that has
//     a router and an authentication of its own. ActorMiddleware must run before
//     the handlers under /sync/. Path parameters are found whatever the router:
//     gorilla/mux, net/http patterns, or a router that keeps them to itself.
//
// # Answers
//
// Pulls, committed rows and snapshot chunks are streamed, so the memory of a
// request does not grow with its rows. An error before the first byte is
// answered as JSON. After the first byte the connection is cut: the client sees
// a broken answer and asks again, never a short one that looks complete.
//
// # What is refused, and in which order
//
// Unknown path (404), wrong method (405), no or bad token (401), bad source
// header (400), too many requests (429), body over the limit (413), bad query or
// body (400 with the endpoint's own code), and then whatever the service says.
package httpapi
