// Package httpapi is the edge: routes, credentials, bodies, statuses, headers, deadlines, and the one table from errors
// to Anthropic's words.
//
// Three functions carry the room: API.startStream (a request becomes a stream, held until its status is known),
// API.follow (a viewer's events, pings and end are written) and describe (an error becomes an answer).
package httpapi
