// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Draw, DrawBy } from "../../src/interfaces/Types.sol";
import { Test } from "../base/Test.sol";
import { Urn } from "../base/Urn.sol";

/// @notice Whatever the pool: as many as are wanted, or all, each once, and nobody else.
contract DrawsFuzzTest is Test {
    function testFuzz_draw__anyPool__drawsExactlyTheSmallerNumberOfDistinctMembers(bytes32 seed) external {
        uint256 n = 1 + uint256(seed) % 40;
        uint256 perRound = 1 + (uint256(seed) >> 16) % n;
        Urn urn = new Urn(Draw(uint16(perRound), DrawBy((uint256(seed) >> 32) % 3)), 100 ether);
        bool[] memory waits = new bool[](n);
        uint256 pool;
        for (uint256 i; i < n; ++i) {
            uint256 r = uint256(keccak256(abi.encode(seed, i)));
            waits[i] = r % 4 > 0;
            if (waits[i]) ++pool;
            urn.add(uint96(50 ether + (r >> 8) % 500 ether), uint16((r >> 128) % 10_001), waits[i]);
        }
        if (pool == 0) return;
        uint256[] memory drawn = urn.draw(seed, uint256(seed) % 7, 3);
        vm.assertEq(drawn.length, perRound < pool ? perRound : pool);
        for (uint256 i; i < drawn.length; ++i) {
            vm.assertTrue(waits[drawn[i]], "twice, or not in the pool");
            waits[drawn[i]] = false;
            vm.assertEq(uint256(urn.activeFrom(drawn[i])), 3);
        }
        for (uint256 i; i < n; ++i) {
            if (waits[i]) vm.assertEq(uint256(urn.activeFrom(i)), type(uint16).max - 1);
        }
    }
}
