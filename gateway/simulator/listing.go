package simulator

import (
	"net/url"
	"slices"
	"strconv"
)

// listing is one page of a list, newest first.
type listing[T any] struct {
	Data    []T     `json:"data"`
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

func newListing[T any](data []T, more bool, id func(T) string) listing[T] {
	l := listing[T]{Data: append([]T{}, data...), HasMore: more} // [] where there is none, never null
	if n := len(data); n > 0 {
		first, last := id(data[0]), id(data[n-1])
		l.FirstID, l.LastID = &first, &last
	}
	return l
}

// pageOf takes the part of all that limit, after_id and before_id ask for. more speaks of the direction in which is
// being paged.
func pageOf[T any](query url.Values, all []T, id func(T) string) (part []T, more bool, err error) {
	limit := 20
	if given := query.Get("limit"); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil || n < 1 || n > 1000 {
			return nil, false, invalid("limit: Input should be an integer from 1 to 1000")
		}
		limit = n
	}
	after, before := query.Get("after_id"), query.Get("before_id")
	if after != "" && before != "" {
		return nil, false, invalid("after_id and before_id cannot be used together")
	}
	at := slices.IndexFunc(all, func(one T) bool { return id(one) == after+before })
	switch {
	case after+before != "" && at < 0:
		return nil, false, invalid("There is no `%s` to page from", after+before)
	case before != "":
		first := max(0, at-limit)
		return all[first:at], first > 0, nil
	}
	all = all[at+1:]
	n := min(limit, len(all))
	return all[:n], n < len(all), nil
}
