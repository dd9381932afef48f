package httpapi

import (
	"errors"

	oversync "github.com/oversync/oversync/sync"
)

// bodyFault gives a body that could not be read the code that the endpoint names
// for its body. Other errors, and nil, pass through.
func bodyFault(err error, code string) error {
	if e, ok := errors.AsType[*oversync.RequestBodyError](err); ok {
		return &requestError{code: code, message: e.Error()}
	}
	return err
}
